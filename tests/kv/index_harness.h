// An index on an arena, driven by keys and values.
#ifndef DAXKV_TESTS_KV_INDEX_HARNESS_H_
#define DAXKV_TESTS_KV_INDEX_HARNESS_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kv/index.h"
#include "kv/record.h"
#include "kv/word_stores.h"
#include "tests/kv/arena_memory.h"

namespace daxkv::kv {

using Model = std::map<std::string, std::string>;

// Commits rewrites of leaves on an arena, as the compactor does on a pool.
class ArenaRewriter final : public LeafRewriter {
 public:
  explicit ArenaRewriter(ArenaMemory* memory, std::function<bool(Address)> must_move)
      : memory_(*memory), must_move_(std::move(must_move)) {}
  ~ArenaRewriter() override {
    if (begun_) record_.Release();
  }

  bool MustMove(Address leaf) const override { return must_move_ && must_move_(leaf); }
  absl::StatusOr<Address> AllocateLeaf() override {
    if (record_.address() == kNullAddress) {
      absl::StatusOr<Address> slot =
          memory_.Allocate(SlotKind::kRecord, WordStoresSizeBytes(kMostStores));
      if (!slot.ok()) return slot;
      record_ = OwnedSlot(&memory_, *slot);
    }
    return memory_.Allocate(SlotKind::kLeaf, kLeafSizeBytes);
  }
  absl::Status Commit(absl::Span<const WordStore> stores, bool* begun) override {
    WriteWordStores(memory_, record_.address(), stores);
    if (absl::Status status = memory_.Drain(); !status.ok()) return status;
    *begun = begun_ = true;
    return Store(record_.address());
  }
  absl::Status Finish() override {
    absl::Status status = Store(0);
    begun_ = !status.ok();
    return status;
  }

 private:
  absl::Status Store(Address record) {
    __atomic_store_n(memory_.stores_word(), record, __ATOMIC_RELEASE);
    memory_.Flush(memory_.stores_word(), sizeof(uint64_t));
    return memory_.Drain();
  }

  ArenaMemory& memory_;
  const std::function<bool(Address)> must_move_;
  OwnedSlot record_;
  bool begun_ = false;
};

// Thread safety: as the index.
class IndexHarness {
 public:
  explicit IndexHarness(uint64_t size_bytes = 64 << 20, bool track = true)
      : memory_(std::make_unique<ArenaMemory>(size_bytes, track)),
        snapshots_(std::make_unique<Snapshots>(memory_->open_epoch())) {
    absl::StatusOr<std::unique_ptr<Index>> index =
        Index::Create(memory_.get(), snapshots_.get(), memory_->root());
    EXPECT_TRUE(index.ok()) << index.status();
    index_ = std::move(*index);
  }
  // On a crash image or a closed arena.
  static absl::StatusOr<std::unique_ptr<IndexHarness>> Open(std::unique_ptr<ArenaMemory> memory) {
    if (absl::Status redone = Redo(*memory); !redone.ok()) return redone;
    auto snapshots = std::make_unique<Snapshots>(memory->open_epoch());
    absl::StatusOr<std::unique_ptr<Index>> index =
        Index::Open(memory.get(), snapshots.get(), memory->root());
    if (!index.ok()) return index.status();
    return std::unique_ptr<IndexHarness>(
        new IndexHarness(std::move(memory), std::move(snapshots), std::move(*index)));
  }
  void Reopen() {
    index_.reset();
    rcu::Barrier();
    memory_ = memory_->Reopened();
    snapshots_ = std::make_unique<Snapshots>(memory_->open_epoch());
    absl::StatusOr<std::unique_ptr<Index>> index =
        Index::Open(memory_.get(), snapshots_.get(), memory_->root());
    ASSERT_TRUE(index.ok()) << index.status();
    index_ = std::move(*index);
  }

  absl::StatusOr<Address> Write(std::string_view key, std::string_view value) {
    absl::StatusOr<Address> slot =
        memory_->Allocate(SlotKind::kRecord, RecordSizeBytes(key.size(), value.size()));
    if (slot.ok()) WriteRecord(*memory_, *slot, kValueRecord, ++sequence_, key, value);
    return slot;
  }
  absl::StatusOr<bool> Put(std::string_view key, std::string_view value) {
    absl::StatusOr<Address> slot = Write(key, value);
    if (!slot.ok()) return slot.status();
    absl::StatusOr<bool> replaced = index_->Upsert(key, *slot);
    if (!replaced.ok() && !absl::IsInternal(replaced.status())) memory_->Abandon(*slot);
    return replaced;
  }
  absl::Status PutGroup(
      const std::vector<std::pair<std::string, std::optional<std::string>>>& group, size_t* done,
      uint64_t* replaced) {
    std::vector<Index::GroupEntry> entries;
    for (const auto& [key, value] : group) {
      Address address = kNullAddress;
      if (value.has_value()) {
        absl::StatusOr<Address> slot = Write(key, *value);
        if (!slot.ok()) return slot.status();
        address = *slot;
      }
      entries.push_back({key, address});
    }
    absl::Status status = index_->UpsertSorted(entries, done, replaced);
    for (size_t i = *done; i < entries.size(); ++i) {
      if (entries[i].address != kNullAddress) memory_->Abandon(entries[i].address);
    }
    return status;
  }
  absl::Status Remove(std::string_view key) { return index_->Remove(key); }
  // One walk of leaf merging over everything. `must_move`: leaves that shall leave their places.
  absl::StatusOr<Index::RewriteResult> Rewrite(std::function<bool(Address)> must_move = nullptr) {
    ArenaRewriter rewriter(memory_.get(), std::move(must_move));
    Index::RewriteResult result;
    std::string from, next_from;
    for (bool end = false; !end; from.swap(next_from)) {
      absl::Status status = index_->RewriteLeaves(from, rewriter, &result, &next_from, &end);
      if (!status.ok()) return status;
    }
    return result;
  }
  absl::StatusOr<std::string> Get(std::string_view key) const {
    std::string value;
    absl::Status status = index_->Find(key, [&](const RecordView& record) {
      EXPECT_EQ(record.key, key);
      value = std::string(record.value);
      return VerifyRecord(*memory_, record);
    });
    if (!status.ok()) return status;
    return value;
  }
  // All records, by scans of whole leaves or of at most `step` records.
  absl::StatusOr<Model> Scan(std::string from = "", size_t step = ~size_t{0}) const {
    Model found;
    std::string last;
    for (bool end = false; !end;) {
      size_t seen = 0;
      absl::Status status = index_->ScanLeaf(
          from,
          [&](const RecordView& record) {
            EXPECT_TRUE(found.empty() || last < record.key) << "scan not ascending";
            last = std::string(record.key);
            found[last] = std::string(record.value);
            return ++seen < step;
          },
          &from, &end);
      if (!status.ok()) return status;
    }
    return found;
  }
  // The faults that Verify finds; empty: none. Also compares its slots with the allocated ones.
  std::vector<std::string> Faults(bool expect_no_leak = false) const {
    std::vector<std::string> faults;
    std::set<Address> reached;
    absl::Status status = index_->Verify(
        Index::VerifyOptions(),
        [&](SlotKind, Address address) {
          if (!reached.insert(address).second) faults.push_back("a slot is reached twice");
        },
        [&](std::string line) { faults.push_back(std::move(line)); });
    EXPECT_EQ(status.ok(), faults.empty()) << status;
    if (expect_no_leak) {
      const std::set<Address> live = memory_->LiveSlots();
      EXPECT_TRUE(reached == live)
          << reached.size() << " slots reached, " << live.size() << " allocated";
    }
    return faults;
  }

  Index& index() { return *index_; }
  Snapshots& snapshots() { return *snapshots_; }
  ArenaMemory& memory() { return *memory_; }

 private:
  // What an open does about a set of stores that a crash cut short.
  static absl::Status Redo(ArenaMemory& memory) {
    const Address address = *memory.stores_word();
    if (address == 0) return absl::OkStatus();
    if (absl::Status status = memory.FaultIn(address); !status.ok()) return status;
    absl::StatusOr<RecordView> record = [&] {
      rcu::ReadGuard guard;
      return ViewRecord(memory, address);
    }();
    absl::Status status = record.ok() ? VerifyRecord(memory, *record) : record.status();
    if (status.ok()) status = RedoWordStores(memory, *record);
    if (status.ok()) status = memory.Drain();
    if (!status.ok()) return status;
    *memory.stores_word() = 0;
    memory.Flush(memory.stores_word(), sizeof(uint64_t));
    return memory.Drain();
  }

  IndexHarness(std::unique_ptr<ArenaMemory> memory, std::unique_ptr<Snapshots> snapshots,
               std::unique_ptr<Index> index)
      : memory_(std::move(memory)), snapshots_(std::move(snapshots)), index_(std::move(index)) {}

  std::unique_ptr<ArenaMemory> memory_;
  std::unique_ptr<Snapshots> snapshots_;
  std::unique_ptr<Index> index_;
  inline static std::atomic<uint64_t> sequence_{0};
};

// Checks an index against a model in every way there is.
inline void ExpectEqual(IndexHarness& store, const Model& model) {
  const std::vector<std::string> faults = store.Faults();
  EXPECT_TRUE(faults.empty()) << faults.size() << " faults, first: " << faults.front();
  absl::StatusOr<uint64_t> count = store.index().Count();
  ASSERT_TRUE(count.ok()) << count.status();
  EXPECT_EQ(*count, model.size());
  absl::StatusOr<Model> found = store.Scan();
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_TRUE(*found == model) << found->size() << " records, expected " << model.size();
  for (const auto& [key, value] : model) {
    absl::StatusOr<std::string> got = store.Get(key);
    ASSERT_TRUE(got.ok()) << got.status();
    ASSERT_EQ(*got, value);
  }
}

}  // namespace daxkv::kv

#endif  // DAXKV_TESTS_KV_INDEX_HARNESS_H_
