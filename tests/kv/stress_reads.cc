// What a thread of the stress reads, and how it is judged.
#include <algorithm>
#include <filesystem>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/kv/store_fixture.h"
#include "tests/kv/stress_worker.h"

namespace daxkv::kv {
namespace {

constexpr size_t kMaxHeldSnapshots = 4;
constexpr size_t kMaxHeldPins = 6;
constexpr uint32_t kSnapshotKeys = 64;

std::optional<std::string_view> ValueIn(const absl::StatusOr<std::string>& got) {
  if (!got.ok()) return std::nullopt;
  return *got;
}

// Keeps the stream, and calls `on_first` when the backup's snapshot has been taken.
class KeepingSink : public ByteSink {
 public:
  explicit KeepingSink(std::function<void()> on_first) : on_first_(std::move(on_first)) {}
  absl::Status Append(std::string_view more) override {
    if (on_first_ != nullptr) std::exchange(on_first_, nullptr)();
    bytes.append(more);
    return absl::OkStatus();
  }
  std::string bytes;

 private:
  std::function<void()> on_first_;
};

class KeptSource : public ByteSource {
 public:
  explicit KeptSource(std::string_view bytes) : rest_(bytes) {}
  absl::StatusOr<size_t> Read(absl::Span<char> buffer) override {
    const size_t size = std::min(buffer.size(), rest_.size());
    std::copy_n(rest_.begin(), size, buffer.begin());
    rest_.remove_prefix(size);
    return size;
  }

 private:
  std::string_view rest_;
};

std::vector<uint32_t> KeysFrom(uint32_t first) {
  std::vector<uint32_t> keys(kSnapshotKeys);
  for (uint32_t n = 0; n < kSnapshotKeys; ++n) keys[n] = first + n;
  return keys;
}

}  // namespace

void StressWorker::Get() {
  const uint32_t i = SomeKey();
  const KeyExpectation& key = state_.keys[i];
  const uint64_t before = key.word();
  const absl::StatusOr<std::string> got = Of(i).Get(StressKey(i));
  const uint64_t after = key.word();
  if (!absl::IsNotFound(got.status())) Require(got.status(), "get");
  Require(MayBeRead(i, before, after, ValueIn(got)),
          absl::StrCat("get: ", Describe(i, after, ValueIn(got))));
}

void StressWorker::MultiGet() {
  const uint32_t number = Below(kStressKeyspaces);
  const std::vector<uint32_t> numbers = In(number, SomeKeys(kMaxStressBatch));
  std::vector<std::string> keys, values(numbers.size());
  std::vector<uint64_t> before;
  for (uint32_t i : numbers) {
    keys.push_back(StressKey(i));
    before.push_back(state_.keys[i].word());
  }
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  std::vector<absl::Status> statuses(numbers.size());
  Require(keyspaces_[number].MultiGet(views, absl::MakeSpan(values), absl::MakeSpan(statuses)),
          "multi-get");
  for (size_t n = 0; n < numbers.size(); ++n) {
    const uint32_t i = numbers[n];
    const uint64_t after = state_.keys[i].word();
    if (!absl::IsNotFound(statuses[n])) Require(statuses[n], "multi-get");
    std::optional<std::string_view> value;
    if (statuses[n].ok()) value = values[n];
    Require(MayBeRead(i, before[n], after, value),
            absl::StrCat("multi-get: ", Describe(i, after, value)));
  }
}

void StressWorker::TakeSnapshot() {
  if (snapshots_.size() == kMaxHeldSnapshots) VerifySnapshot();
  HeldSnapshot held;
  held.first = Below(kStressKeys - kSnapshotKeys);
  {
    const std::vector<uint32_t> keys = KeysFrom(held.first);
    StressLocks::Holder locks(&locks_, keys);
    absl::StatusOr<Snapshot> snapshot = db_.GetSnapshot();
    Require(snapshot.status(), "snapshot");
    held.snapshot.emplace(*std::move(snapshot));
    for (uint32_t i : keys) held.states.push_back(state_.keys[i].committed());
  }
  snapshots_.push_back(std::move(held));
}

// Of any age; mostly it is held on to.
void StressWorker::VerifySnapshot() {
  if (snapshots_.empty()) return;
  const size_t which = Below(static_cast<uint32_t>(snapshots_.size()));
  const HeldSnapshot& held = snapshots_[which];
  switch (Below(4)) {
    case 0:
      VerifyByKey(held);
      break;
    case 1:
      VerifyByWalk(held);
      break;
    default: {
      const uint32_t number = Below(kStressKeyspaces);
      VerifyRange(keyspaces_[number], number, &*held.snapshot, held.first, held.states,
                  /*backwards=*/Below(2) == 0);
    }
  }
  if (state_.stop.load() || Below(3) == 0) {
    snapshots_.erase(snapshots_.begin() + static_cast<std::ptrdiff_t>(which));
  }
}

void StressWorker::VerifyByKey(const HeldSnapshot& held) {
  for (uint32_t n = 0; n < held.states.size(); ++n) {
    const uint32_t i = held.first + n;
    const KeyState state = held.states[n];
    const std::string key = StressKey(i);
    std::optional<std::string> value;
    absl::Status status;
    if (n % 3 == 0) {
      status = Of(i).Contains(key, *held.snapshot);
      if (status.ok()) value = StressValue(i, state);
    } else if (n % 3 == 1) {
      absl::StatusOr<PinnedValue> pinned = Of(i).Pin(key, *held.snapshot);
      status = pinned.status();
      if (status.ok()) value.emplace(pinned->value());
    } else {
      absl::StatusOr<std::string> got = Of(i).Get(key, *held.snapshot);
      status = got.status();
      if (status.ok()) value = *std::move(got);
    }
    if (!absl::IsNotFound(status)) Require(status, "get at a snapshot");
    Require(status.ok() == IsPresent(state) && Matches(i, state, value),
            absl::StrCat("at a snapshot: ", Describe(i, state, value)));
  }
}

// Steps in both directions from random places.
void StressWorker::VerifyByWalk(const HeldSnapshot& held) {
  const auto size = static_cast<uint32_t>(held.states.size());
  const uint32_t number = Below(kStressKeyspaces);
  std::vector<uint32_t> present;  // What the iterator must see.
  for (uint32_t n = 0; n < size; ++n) {
    if (KeyspaceOf(held.first + n) == number && IsPresent(held.states[n])) present.push_back(n);
  }
  IteratorOptions options;
  options.lower_bound = StressKey(held.first);
  options.upper_bound = StressKey(held.first + size);
  options.snapshot = &*held.snapshot;
  const std::unique_ptr<Iterator> it = keyspaces_[number].NewIterator(options);
  Require(it != nullptr, "no iterator");
  for (int seeks = 0; seeks < 5; ++seeks) {
    const uint32_t target = Below(size);
    size_t at = 0;
    if (Below(2) == 0) {
      it->Seek(StressKey(held.first + target));
      at = static_cast<size_t>(std::lower_bound(present.begin(), present.end(), target) -
                               present.begin());
    } else {
      it->SeekForPrev(StressKey(held.first + target));
      at = static_cast<size_t>(std::upper_bound(present.begin(), present.end(), target) -
                               present.begin()) -
           1;  // Wraps to "none" where there is no smaller one.
    }
    for (int steps = 0; steps < 20; ++steps) {
      Require(it->status(), "walk");
      Require(it->Valid() == (at < present.size()), "a walk ends at a wrong place");
      if (!it->Valid()) break;
      const uint32_t n = present[at];
      Require(it->key() == StressKey(held.first + n), "a walk is at a wrong key");
      Require(Matches(held.first + n, held.states[n], it->value()),
              absl::StrCat("walk: ", Describe(held.first + n, held.states[n], it->value())));
      if (Below(2) == 0) {
        it->Next();
        ++at;
      } else {
        it->Prev();
        --at;
      }
    }
  }
}

void StressWorker::VerifyRange(const Keyspace& keyspace, uint32_t number, const Snapshot* snapshot,
                               uint32_t first, const std::vector<KeyState>& states,
                               bool backwards) {
  IteratorOptions options;
  options.lower_bound = StressKey(first);
  options.upper_bound = StressKey(first + static_cast<uint32_t>(states.size()));
  options.snapshot = snapshot;
  const std::unique_ptr<Iterator> it = keyspace.NewIterator(options);
  Require(it != nullptr, "no iterator");
  backwards ? it->SeekToLast() : it->SeekToFirst();
  for (size_t step = 0; step < states.size(); ++step) {
    const size_t n = backwards ? states.size() - 1 - step : step;
    const uint32_t i = first + static_cast<uint32_t>(n);
    if (KeyspaceOf(i) != number || !IsPresent(states[n])) continue;
    Require(it->status(), "range");
    Require(it->Valid() && it->key() == StressKey(i) && Matches(i, states[n], it->value()),
            absl::StrCat("range: ", Describe(i, states[n],
                                             it->Valid() && it->key() == StressKey(i)
                                                 ? std::optional<std::string_view>(it->value())
                                                 : std::nullopt)));
    backwards ? it->Prev() : it->Next();
  }
  Require(it->status(), "range");
  Require(!it->Valid(), "a range has more keys than were put");
}

void StressWorker::Pin() {
  VerifyPins();
  if (pins_.size() == kMaxHeldPins) pins_.pop_front();
  const uint32_t i = SomeKey();
  const uint64_t before = state_.keys[i].word();
  absl::StatusOr<PinnedValue> pinned = Of(i).Pin(StressKey(i));
  const uint64_t after = state_.keys[i].word();
  if (!absl::IsNotFound(pinned.status())) Require(pinned.status(), "pin");
  std::optional<std::string_view> value;
  if (pinned.ok()) value = pinned->value();
  Require(MayBeRead(i, before, after, value), absl::StrCat("pin: ", Describe(i, after, value)));
  if (!pinned.ok()) return;
  HeldPin held;
  held.value = pinned->value();
  held.pinned = *std::move(pinned);
  pins_.push_back(std::move(held));
}

void StressWorker::VerifyPins() {
  for (const HeldPin& held : pins_) {
    Require(held.pinned.value() == held.value, "a pinned value has changed");
  }
}

// Without a snapshot known before: keys in order, values whole.
void StressWorker::Iterate() {
  const uint32_t number = Below(kStressKeyspaces);
  const std::unique_ptr<Iterator> it = keyspaces_[number].NewIterator();
  Require(it != nullptr, "no iterator");
  const bool backwards = Below(2) == 0;
  const std::string from = StressKey(SomeKey());
  std::string last = from;
  backwards ? it->SeekForPrev(from) : it->Seek(from);
  for (int n = 0; n < 100 && it->Valid(); ++n) {
    const std::string key(it->key());
    Require(n == 0 || (backwards ? key < last : key > last), "an iterator goes the wrong way");
    uint32_t i = 0;
    if (key.compare(0, 3, "key") == 0) {
      i = static_cast<uint32_t>(std::stoul(key.substr(3, 12)));
      Require(i < kStressKeys && KeyspaceOf(i) == number && key == StressKey(i),
              "a key that was never put");
      Require(Matches(i, NumberIn(it->value()) << 1 | 1, it->value()),
              absl::StrCat("iterate: ", Describe(i, state_.keys[i].word(), it->value())));
    }
    last = key;
    backwards ? it->Prev() : it->Next();
  }
  Require(it->status(), "iterate");
}

void StressWorker::Estimate() {
  const uint32_t first = SomeKey();
  absl::StatusOr<RangeEstimate> estimate = Of(first).ApproximateRange(
      StressKey(first), StressKey(first + Below(kStressKeys - first) + 1));
  Require(estimate.status(), "estimate");
  Require(estimate->records <= kStressKeys, "an estimate above all that there can be");
}

void StressWorker::Backup() {
  const uint32_t first = Below(kStressKeys - kSnapshotKeys);
  const std::vector<uint32_t> keys = KeysFrom(first);
  StressLocks::Holder locks(&locks_, keys);
  std::vector<KeyState> states;
  for (uint32_t i : keys) states.push_back(state_.keys[i].committed());
  KeepingSink sink([&] { locks.Release(); });
  Require(db_.Backup(&sink).status(), "backup");
  if (Below(4) != 0) return;
  std::error_code ignored;
  std::filesystem::remove_all(scratch_, ignored);
  KeptSource source(sink.bytes);
  Options options = TestOptions();
  options.compaction_bytes_per_second = 0;
  Require(Db::Restore(&source, scratch_, options, RestoreExtent::kWholeSource).status(), "restore");
  absl::StatusOr<std::unique_ptr<Db>> restored = Db::Open(scratch_, options);
  Require(restored.status(), "open what was restored");
  {
    const absl::StatusOr<std::vector<Keyspace>> keyspaces = OpenStressKeyspaces(**restored);
    Require(keyspaces.status(), "open keyspaces that were restored");
    for (uint32_t number = 0; number < kStressKeyspaces; ++number) {
      VerifyRange((*keyspaces)[number], number, nullptr, first, states, /*backwards=*/false);
    }
  }
  Require((*restored)->Close(), "close what was restored");
  std::filesystem::remove_all(scratch_, ignored);
}

}  // namespace daxkv::kv
