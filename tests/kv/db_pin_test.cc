// Pinned values: what they hold on to, what may go on around them, and what they tell of damage.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kv/format.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

using testing::HasSubstr;

constexpr absl::StatusCode kDataLoss = absl::StatusCode::kDataLoss;

// Exchanges bytes of the pool, as nobody but damage does; puts the old ones back when it goes.
class Damage {
 public:
  Damage(const char* at, std::string_view bytes)
      : at_(const_cast<char*>(at)), undamaged_(at, bytes.size()) {
    std::memcpy(at_, bytes.data(), bytes.size());
  }
  ~Damage() { std::memcpy(at_, undamaged_.data(), undamaged_.size()); }
  Damage(const Damage&) = delete;
  Damage& operator=(const Damage&) = delete;

 private:
  char* const at_;
  const std::string undamaged_;
};

std::string Flipped(const char* at) { return std::string(1, static_cast<char>(*at ^ 0x20)); }

class PinTest : public StoreTest {
 protected:
  // The record's header and, behind it, its key.
  const char* HeaderOf(const std::string& key) {
    const absl::StatusOr<PinnedValue> pinned = db().Pin(key);
    EXPECT_THAT(pinned.status(), IsOk());
    return pinned->value().data() - key.size() - sizeof(RecordHeader);
  }
};
INSTANTIATE_ON_BOTH_MEDIA(PinTest);

TEST_P(PinTest, OutlivesOverwritesAndDeletes) {
  for (size_t size : {10, 40000, 300000, 5 << 20}) {
    const std::string key = absl::StrCat("size", size);
    ASSERT_THAT(db().Put(key, ValueFor(key, 1, size)), IsOk());
    absl::StatusOr<PinnedValue> first = db().Pin(key);
    ASSERT_THAT(db().Put(key, ValueFor(key, 2, size)), IsOk());
    absl::StatusOr<PinnedValue> second = db().Pin(key);
    ASSERT_THAT(db().Delete(key), IsOk());
    for (int i = 0; i < 30; ++i) {
      ASSERT_THAT(db().Put(absl::StrCat("other", i), ValueFor("other", i, size)), IsOk());
    }
    ASSERT_THAT(db().Compact().status(), IsOk());
    EXPECT_TRUE(first->value() == ValueFor(key, 1, size));
    EXPECT_TRUE(second->value() == ValueFor(key, 2, size));
  }
}

TEST_P(PinTest, MovesAndReleases) {
  ASSERT_THAT(db().Put("a", "1"), IsOk());
  PinnedValue outer;
  EXPECT_EQ(outer.value(), "");
  {
    absl::StatusOr<PinnedValue> pinned = db().Pin("a");
    ASSERT_THAT(pinned.status(), IsOk());
    outer = *std::move(pinned);
  }
  EXPECT_EQ(outer.value(), "1");
  PinnedValue inner = std::move(outer);
  EXPECT_EQ(inner.value(), "1");
  EXPECT_EQ(outer.value(), "");
}

TEST_P(PinTest, VerifiesWhatIsPinnedAndNothingElse) {
  EXPECT_THAT(PinnedValue().Verify(), IsOk());
  for (size_t size : {0, 10, 1000, 300'000, 5 << 20}) {
    const std::string key = absl::StrCat("size", size);
    ASSERT_THAT(db().Put(key, ValueFor(key, 1, size)), IsOk());
    absl::StatusOr<Snapshot> snapshot = db().GetSnapshot();
    for (PinVerify verify : {PinVerify::kNow, PinVerify::kLater}) {
      absl::StatusOr<PinnedValue> pinned = db().Pin(key, verify);
      ASSERT_THAT(pinned.status(), IsOk());
      EXPECT_TRUE(pinned->value() == ValueFor(key, 1, size));
      EXPECT_THAT(pinned->Verify(), IsOk());
      const PinnedValue other = *std::move(pinned);
      EXPECT_TRUE(other.value() == ValueFor(key, 1, size));
      EXPECT_THAT(other.Verify(), IsOk());
      EXPECT_THAT(pinned->Verify(), IsOk());
      EXPECT_THAT(db().Pin(key, *snapshot, verify)->Verify(), IsOk());
    }
    // A record that nothing refers to any more is pinned still.
    absl::StatusOr<PinnedValue> pinned = db().Pin(key, PinVerify::kLater);
    *snapshot = *db().GetSnapshot();
    ASSERT_THAT(db().Delete(key), IsOk());
    EXPECT_THAT(pinned->Verify(), IsOk());
    EXPECT_THAT(db().Pin(key, PinVerify::kLater).status(), HasCode(absl::StatusCode::kNotFound));
    EXPECT_THAT(db().Pin(key, *snapshot, PinVerify::kLater)->Verify(), IsOk());
  }
}

TEST_P(PinTest, TellsDamageOfTheValueNowOrLater) {
  for (size_t size : {10, 1000, 300'000, 5 << 20}) {
    const std::string key = absl::StrCat("size", size);
    ASSERT_THAT(db().Put(key, ValueFor(key, 1, size)), IsOk());
    const absl::StatusOr<Snapshot> snapshot = db().GetSnapshot();
    absl::StatusOr<PinnedValue> before = db().Pin(key);
    for (size_t at : {size_t{0}, size / 2, size - 1}) {
      const char* const byte = before->value().data() + at;
      {
        const Damage damage(byte, Flipped(byte));
        EXPECT_THAT(db().Pin(key).status(), HasCode(kDataLoss));
        EXPECT_THAT(db().Pin(key, *snapshot).status(), HasCode(kDataLoss));
        const absl::StatusOr<PinnedValue> later[] = {db().Pin(key, PinVerify::kLater),
                                                     db().Pin(key, *snapshot, PinVerify::kLater)};
        for (const absl::StatusOr<PinnedValue>& pinned : later) {
          ASSERT_THAT(pinned.status(), IsOk());
          EXPECT_EQ(pinned->value().data(), before->value().data());
          EXPECT_EQ(pinned->value().size(), size);
          const absl::Status damaged = pinned->Verify();
          EXPECT_THAT(damaged, HasCode(kDataLoss));
          EXPECT_THAT(std::string(damaged.message()), HasSubstr(absl::StrCat("\"", key, "\"")));
          EXPECT_THAT(std::string(damaged.message()), HasSubstr("pool offset"));
          EXPECT_THAT(pinned->CheckMedium(), IsOk());
        }
        EXPECT_THAT(before->Verify(), HasCode(kDataLoss));
      }
      EXPECT_THAT(before->Verify(), IsOk());
    }
  }
}

TEST_P(PinTest, VerifiesOnRequestWithoutTheOptionToo) {
  CloseCleanly();
  options_.verify_checksums = false;
  Open();
  ASSERT_THAT(db().Put("key", "value"), IsOk());
  absl::StatusOr<PinnedValue> pinned = db().Pin("key");
  const Damage damage(pinned->value().data(), "V");
  EXPECT_EQ(db().Pin("key")->value(), "Value");
  EXPECT_THAT(db().Pin("key")->Verify(), HasCode(kDataLoss));
}

// What the header claims is believed only as far as it leads to pinned bytes.
TEST_P(PinTest, NoDamageOfTheHeaderLeadsOutOfThePinnedBytes) {
  const std::string key = "some key";
  for (size_t size : {0, 500, 40'000, 300'000, 5 << 20}) {
    SCOPED_TRACE(size);
    ASSERT_THAT(db().Put(key, ValueFor(key, 1, size)), IsOk());
    const char* const header = HeaderOf(key);
    // Where the pool begins, by what a message says of the record.
    const char* pool = nullptr;
    {
      const Damage damage(header, Flipped(header));
      const std::string message(db().Pin(key).status().message());
      const size_t number = message.find("pool offset ");
      ASSERT_NE(number, message.npos);
      pool = header - std::stoull(message.substr(number + strlen("pool offset ")));
    }
    const absl::StatusOr<PinnedValue> before = db().Pin(key);
    std::mt19937_64 random(size);
    uint64_t pinned_wrongly = 0;
    for (int round = 0; round < 300; ++round) {
      uint32_t value_size = static_cast<uint32_t>(random() >> (32 + random() % 32));
      if (round % 3 == 0) value_size = static_cast<uint32_t>(size + random() % 64);
      char bytes[sizeof(value_size)];
      std::memcpy(bytes, &value_size, sizeof(bytes));
      const Damage damage(header + offsetof(RecordHeader, value_size_bytes), {bytes, 4});
      EXPECT_EQ(before->Verify().ok(), value_size == size) << value_size;
      const absl::StatusOr<PinnedValue> pinned = db().Pin(key, PinVerify::kLater);
      if (!pinned.ok()) {
        ASSERT_THAT(pinned.status(), HasCode(kDataLoss));
        continue;
      }
      ASSERT_EQ(pinned->value().size(), value_size);
      const std::vector<dax::PinnedExtent> extents = db().GetInfo()->dax.pins.longest_busy;
      for (const uint64_t end : {uint64_t{0}, uint64_t{value_size}}) {
        const auto page = static_cast<uint64_t>(pinned->value().data() + end - pool - 1) >> 12;
        EXPECT_TRUE(std::any_of(extents.begin(), extents.end(), [&](const auto& extent) {
          return page - extent.first_index < uint64_t{1} << extent.order;
        })) << value_size;
      }
      for (const char byte : pinned->value()) asm volatile("" : : "r"(byte) : "memory");
      EXPECT_EQ(pinned->Verify().ok(), value_size == size) << value_size;
      pinned_wrongly += value_size != size;
    }
    EXPECT_GT(pinned_wrongly, 0u);  // Else there is nothing to see here.
  }
}

TEST_P(PinTest, NoDamageOfHeaderOrKeyShowsAnotherKeysValue) {
  const std::string key = "some key";
  ASSERT_THAT(db().Put("some kez", "another"), IsOk());
  ASSERT_THAT(db().Put(key, ValueFor(key, 1, 1000)), IsOk());
  const char* const header = HeaderOf(key);
  for (size_t at = 0; at < sizeof(RecordHeader) + key.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      const char byte = static_cast<char>(header[at] ^ (1 << bit));
      const Damage damage(header + at, {&byte, 1});
      const absl::StatusOr<PinnedValue> pinned = db().Pin(key, PinVerify::kLater);
      // Not all of a record's kinds and flags are its value's.
      const bool harmless = at == offsetof(RecordHeader, kind_and_flags) && bit == 7;
      if (pinned.ok()) {
        EXPECT_LT(at, sizeof(RecordHeader)) << at << " " << bit;
        EXPECT_EQ(pinned->value().data(), header + sizeof(RecordHeader) + key.size());
        EXPECT_EQ(pinned->Verify().ok(), harmless) << at << " " << bit;
      } else {
        EXPECT_THAT(pinned.status(), HasCode(kDataLoss)) << at << " " << bit;
      }
      EXPECT_EQ(db().Pin(key).ok(), harmless) << at << " " << bit;
    }
  }
}

// Must show 6 in small: everything is deleted but a pin is held on one value.
TEST_P(PinTest, KeepsItsExtentAloneWhileTheRestIsGivenBack) {
  constexpr int kRecords = 4000;
  constexpr size_t kSize = 10000;
  std::vector<std::string> keys, values;
  for (int i = 0; i < kRecords; ++i) {
    keys.push_back(NumberedKey(i));
    values.push_back(ValueFor(keys.back(), 0, kSize));
  }
  std::vector<KeyValue> group;
  for (int i = 0; i < kRecords; ++i) group.push_back({keys[i], values[i]});
  ASSERT_THAT(db().PutGroup(group).status(), IsOk());
  const uint64_t full = DiskUsageBytes(path());

  absl::StatusOr<PinnedValue> pinned = db().Pin(keys[kRecords / 2]);
  ASSERT_THAT(pinned.status(), IsOk());
  ASSERT_THAT(db().DeleteGroup(std::vector<std::string_view>(keys.begin(), keys.end())).status(),
              IsOk());
  absl::StatusOr<CompactionResult> compacted = db().Compact();
  ASSERT_THAT(compacted.status(), IsOk());
  EXPECT_EQ(compacted->extents_pinned, 1u);
  EXPECT_GT(compacted->extents_freed, 1u);
  const uint64_t held = DiskUsageBytes(path());
  EXPECT_LT(held, full / 4);
  EXPECT_TRUE(pinned->value() == values[kRecords / 2]);

  *pinned = PinnedValue();
  compacted = db().Compact();
  ASSERT_THAT(compacted.status(), IsOk());
  EXPECT_EQ(compacted->extents_pinned, 0u);
  EXPECT_EQ(compacted->extents_freed, 1u);
  EXPECT_LT(DiskUsageBytes(path()), held);
}

TEST_P(PinTest, CheckKnowsADeletedValueUnderAPin) {
  ASSERT_THAT(db().Put("a", "1"), IsOk());
  absl::StatusOr<PinnedValue> pinned = db().Pin("a");
  ASSERT_THAT(db().Delete("a"), IsOk());
  ExpectClean();
  EXPECT_EQ(pinned->value(), "1");
}

// Pins are taken and held while writers, deletes and compaction try to take the bytes away.
TEST_P(PinTest, HoldsUnderChurn) {
  constexpr int kKeys = 200;
  const auto size_of = [](uint64_t version) { return version % 7 == 0 ? 50000 : 900; };
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  for (int writer = 0; writer < 2; ++writer) {
    threads.emplace_back([&, writer] {
      std::mt19937_64 random(writer);
      for (uint64_t version = 0; !stop.load(); ++version) {
        const std::string key = NumberedKey(random() % kKeys * 2 + writer);
        if (version % 3 == 0) {
          db().Delete(key).IgnoreError();
        } else {
          const std::string tag = absl::StrCat(version, ";");
          EXPECT_THAT(db().Put(key, tag + ValueFor(key, version, size_of(version))), IsOk());
        }
      }
    });
  }
  threads.emplace_back([&] {
    while (!stop.load()) EXPECT_THAT(db().Compact().status(), IsOk());
  });
  const auto check = [&](const std::string& key, std::string_view value) {
    const size_t tag = value.find(';');
    ASSERT_NE(tag, value.npos);
    const uint64_t version = std::stoull(std::string(value.substr(0, tag)));
    ASSERT_TRUE(value.substr(tag + 1) == ValueFor(key, version, size_of(version)));
  };
  std::mt19937_64 random(99);
  std::vector<std::pair<std::string, PinnedValue>> held(64);
  for (int i = 0; i < 5000; ++i) {
    auto& [held_key, held_value] = held[random() % held.size()];
    if (!held_key.empty()) {
      ASSERT_NO_FATAL_FAILURE(check(held_key, held_value.value()));
    }
    const std::string key = NumberedKey(random() % (kKeys * 2));
    absl::StatusOr<PinnedValue> pinned = db().Pin(key);
    if (absl::IsNotFound(pinned.status())) continue;
    ASSERT_THAT(pinned.status(), IsOk());
    ASSERT_NO_FATAL_FAILURE(check(key, pinned->value()));
    held_key = key;
    held_value = *std::move(pinned);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace daxkv::kv
