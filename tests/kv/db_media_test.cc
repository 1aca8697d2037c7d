// What a store says and does when pages of its medium can't be read any more.
#include <atomic>
#include <chrono>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kv/db.h"
#include "kv/format.h"
#include "tests/dax/media_error_util.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

using testing::HasSubstr;

constexpr uint64_t kPage = dax::kPageSizeBytes;

char* PageOf(const char* address) {
  return reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(address) & ~(kPage - 1));
}

class DbMediaTest : public StoreTest {
 protected:
  void TearDown() override {
    Crash();  // Most tests leave a store that is not clean.
  }

  static std::string Value(uint64_t i) { return ValueFor(NumberedKey(i), 1, 1000); }
  void PutMany(uint64_t count) { PutRange(0, count); }
  void PutRange(uint64_t begin, uint64_t end) {
    std::vector<std::string> texts;
    for (uint64_t i = begin; i < end; ++i) {
      texts.push_back(NumberedKey(i));
      texts.push_back(Value(i));
    }
    std::vector<KeyValue> records;
    for (size_t i = 0; i < texts.size(); i += 2) records.push_back({texts[i], texts[i + 1]});
    ASSERT_THAT(db().PutGroup(records).status(), IsOk());
  }
  void DeleteRange(uint64_t begin, uint64_t end) {
    std::vector<std::string> texts;
    for (uint64_t i = begin; i < end; ++i) texts.push_back(NumberedKey(i));
    const std::vector<std::string_view> keys(texts.begin(), texts.end());
    ASSERT_THAT(db().DeleteGroup(keys).status(), IsOk());
  }
  // Where the value lies.
  char* Place(std::string_view key, uint64_t offset = 0) {
    absl::StatusOr<PinnedValue> pinned = db().Pin(key);
    EXPECT_TRUE(pinned.ok()) << pinned.status();
    return const_cast<char*>(pinned->value().data()) + offset;
  }
  // Keys below `count` that read as DataLoss; every other one reads as it was put.
  std::set<uint64_t> Lost(uint64_t count) {
    std::set<uint64_t> lost;
    for (uint64_t i = 0; i < count; ++i) {
      const absl::StatusOr<std::string> got = db().Get(NumberedKey(i));
      if (absl::IsDataLoss(got.status())) {
        lost.insert(i);
      } else {
        EXPECT_TRUE(got.ok()) << i << ": " << got.status();
        if (got.ok()) {
          EXPECT_EQ(*got, Value(i));
        }
      }
    }
    return lost;
  }
  // The pool's first byte.
  static char* Base(const char* inside) {
    std::ifstream maps("/proc/self/maps");
    uintptr_t base = 0;
    std::string line;
    while (std::getline(maps, line)) {
      const uintptr_t first = std::stoul(line, nullptr, 16);
      if (first > reinterpret_cast<uintptr_t>(inside)) break;
      if (line.find("000000.pmem") != std::string::npos && line.find(" 00000000 ") != line.npos) {
        base = first;
      }
    }
    return reinterpret_cast<char*>(base);
  }
  // A leaf of the index that lies before `inside` + 64 MiB.
  static std::vector<char*> Leaves(const char* inside) {
    char* base = Base(inside);
    std::vector<char*> leaves;
    uint64_t size_bytes = 0;
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
      if (std::stoul(line, nullptr, 16) != reinterpret_cast<uintptr_t>(base)) continue;
      size_bytes = std::stoul(line.substr(line.find('-') + 1), nullptr, 16) -
                   reinterpret_cast<uintptr_t>(base);
    }
    for (uint64_t offset = 0; offset + kLeafSizeBytes <= size_bytes; offset += kLeafSizeBytes) {
      const auto* header = reinterpret_cast<const NodeHeader*>(base + offset);
      if (header->magic == kLeafMagic && header->self == offset) leaves.push_back(base + offset);
    }
    return leaves;
  }
};

TEST_P(DbMediaTest, LossIsToldAndStaysInItsPage) {
  PutMany(500);
  char* page = PageOf(Place(NumberedKey(250), 500));
  dax::LosePageAt(page);
  const absl::Status got = db().Get(NumberedKey(250)).status();
  EXPECT_THAT(got, HasCode(absl::StatusCode::kDataLoss));
  EXPECT_THAT(std::string(got.message()), HasSubstr(NumberedKey(250)));
  EXPECT_THAT(std::string(got.message()), HasSubstr("pool offset"));
  EXPECT_THAT(db().Pin(NumberedKey(250)).status(), HasCode(absl::StatusCode::kDataLoss));
  const std::set<uint64_t> lost = Lost(500);
  EXPECT_GE(lost.size(), 3u);  // 4 KiB of records of about 1 KiB.
  EXPECT_LE(lost.size(), 6u);
  EXPECT_EQ(lost.count(250), 1u);

  const absl::StatusOr<CheckReport> report = db().Check();
  ASSERT_THAT(report.status(), IsOk());
  EXPECT_EQ(report->lost_pages, 1u);
  const auto names_page = [](const std::string& fault) {
    return fault.find("this page is lost to a media error, in the extent of") != fault.npos;
  };
  EXPECT_TRUE(std::any_of(report->faults.begin(), report->faults.end(), names_page));
  for (const std::string& fault : report->faults) {
    EXPECT_THAT(fault, testing::AnyOf(HasSubstr("lost to a media error"))) << fault;
  }
  EXPECT_EQ(db().GetInfo()->dax.pool.quarantined_pages, 1u);

  // Overwriting works; the page is not used for it.
  for (const uint64_t i : lost) {
    EXPECT_THAT(db().Put(NumberedKey(i), Value(i)), IsOk());
    EXPECT_THAT(db().Get(NumberedKey(i)).status(), IsOk());
  }
  EXPECT_TRUE(Lost(500).empty());
  PutRange(500, 1500);
  EXPECT_TRUE(Lost(1500).empty());
  for (int round = 0; round < 2; ++round) {
    if (round == 0) {
      CloseCleanly();
    } else {
      Crash();
    }
    Open();
    EXPECT_TRUE(Lost(1500).empty());
    EXPECT_EQ(db().GetInfo()->dax.pool.quarantined_pages, 1u);
    DeleteRange(500, 1000);
    PutRange(500, 1000);
    EXPECT_TRUE(Lost(1500).empty());
    ASSERT_THAT(db().Compact().status(), IsOk());
    EXPECT_TRUE(Lost(1500).empty());
  }
}

TEST_P(DbMediaTest, LostValueOfALongRecordCanBeDeletedAndItsPageComesBack) {
  const std::string value = ValueFor("long", 1, 3'000'000);
  ASSERT_THAT(db().Put("long", value), IsOk());
  PutMany(50);
  char* place = Place("long", 2'500'000);
  dax::LosePageAt(PageOf(place));
  const absl::Status got = db().Get("long").status();
  EXPECT_THAT(got, HasCode(absl::StatusCode::kDataLoss));
  EXPECT_THAT(std::string(got.message()), HasSubstr("\"long\""));
  EXPECT_THAT(db().Pin("long").status(), HasCode(absl::StatusCode::kDataLoss));
  EXPECT_THAT(db().Contains("long"), IsOk());
  CloseCleanly();
  Open();
  EXPECT_THAT(db().Get("long").status(), HasCode(absl::StatusCode::kDataLoss));
  EXPECT_EQ(db().GetInfo()->dax.pool.quarantined_pages, 1u);
  EXPECT_THAT(db().Delete("long"), IsOk());
  EXPECT_THAT(db().Get("long").status(), HasCode(absl::StatusCode::kNotFound));
  ASSERT_THAT(db().Compact().status(), IsOk());
  EXPECT_EQ(db().GetInfo()->dax.pool.quarantined_pages, 0u);
  ExpectClean();
  ASSERT_THAT(db().Put("long", value), IsOk());
  EXPECT_EQ(GetOrDie("long"), value);
  ExpectClean();
}

TEST_P(DbMediaTest, LostValueOfALongRecordCanBeOverwritten) {
  ASSERT_THAT(db().Put("long", ValueFor("long", 1, 300'000)), IsOk());
  dax::LosePageAt(PageOf(Place("long", 200'000)));
  ASSERT_THAT(db().Put("long", "short"), IsOk());
  EXPECT_EQ(GetOrDie("long"), "short");
  ASSERT_THAT(db().Compact().status(), IsOk());
  EXPECT_EQ(db().GetInfo()->dax.pool.quarantined_pages, 0u);
  ExpectClean();
}

TEST_P(DbMediaTest, PinTellsWhetherItsBytesAreStillThere) {
  ASSERT_THAT(db().Put("long", ValueFor("long", 1, 300'000)), IsOk());
  absl::StatusOr<PinnedValue> pinned = db().Pin("long");
  ASSERT_THAT(pinned.status(), IsOk());
  EXPECT_THAT(pinned->CheckMedium(), IsOk());
  dax::LosePageAt(PageOf(pinned->value().data() + 100'000));
  {
    const dax::SurviveMediaErrors survive;
    EXPECT_NE(std::string(pinned->value()), ValueFor("long", 1, 300'000));
  }
  EXPECT_THAT(pinned->CheckMedium(), HasCode(absl::StatusCode::kDataLoss));
}

TEST_P(DbMediaTest, APinThatIsVerifiedLaterTellsThenWhatIsLost) {
  const std::string value = ValueFor("long", 1, 5'000'000);
  ASSERT_THAT(db().Put("long", value), IsOk());
  absl::StatusOr<PinnedValue> before = db().Pin("long", PinVerify::kLater);
  dax::LosePageAt(PageOf(before->value().data() + 3'000'000));
  const absl::StatusOr<PinnedValue> after = db().Pin("long", PinVerify::kLater);
  EXPECT_TRUE(after.ok() || absl::IsDataLoss(after.status())) << after.status();
  const absl::Status lost = before->Verify();
  EXPECT_THAT(lost, HasCode(absl::StatusCode::kDataLoss));
  EXPECT_THAT(std::string(lost.message()), HasSubstr("\"long\""));
  EXPECT_THAT(std::string(lost.message()), HasSubstr("lost to a media error"));
  if (after.ok()) {
    EXPECT_EQ(after->Verify(), lost);
  }
  // Known by now.
  EXPECT_THAT(db().Pin("long", PinVerify::kLater).status(), HasCode(absl::StatusCode::kDataLoss));
}

TEST_P(DbMediaTest, WritersGoAroundAPageThatIsLostUnderThem) {
  // Until the last record is one of the first of its extent, behind which lie the slots that come
  // next. The smallest extents of this class have 64 KiB.
  constexpr uint64_t kExtentSizeBytes = 64 << 10;
  PutMany(20);
  uint64_t count = 20;
  char* last;
  do {
    ASSERT_LT(count, 120u);
    ASSERT_THAT(db().Put(NumberedKey(count), Value(count)), IsOk());
    last = Place(NumberedKey(count++));
  } while (reinterpret_cast<uintptr_t>(last) % kExtentSizeBytes > 4 * kPage);
  for (uint64_t pages = 2; pages < 10; pages += 2) dax::LosePageAt(PageOf(last) + pages * kPage);
  for (; count < 180; ++count) {
    EXPECT_THAT(db().Put(NumberedKey(count), Value(count)), IsOk());
  }
  PutRange(180, 400);
  EXPECT_TRUE(Lost(400).empty());
  EXPECT_GE(db().GetInfo()->dax.pool.quarantined_pages, 1u);
  CloseCleanly();
  Open();
  EXPECT_TRUE(Lost(400).empty());
  // All on those pages is known to be dead: once the extent is empty they come back.
  DeleteRange(0, 400);
  ASSERT_THAT(db().Compact().status(), IsOk());
  EXPECT_EQ(db().GetInfo()->dax.pool.quarantined_pages, 0u);
  ExpectClean();
}

TEST_P(DbMediaTest, LostLeafTakesItsKeysOnly) {
  PutMany(3000);
  const std::vector<char*> leaves = Leaves(Place(NumberedKey(0)));
  ASSERT_GT(leaves.size(), 20u);
  dax::LosePageAt(PageOf(leaves[10]));
  std::set<uint64_t> lost = Lost(3000);  // Nothing reads as kNotFound.
  EXPECT_GE(lost.size(), 30u);
  EXPECT_LE(lost.size(), 4 * kLeafSlots);
  const uint64_t step = GetParam() == Medium::kTmpfs ? 1 : 29;  // Each costs msyncs.
  for (uint64_t i = 0; i < 3000; i += step) {
    const absl::Status put = db().Put(NumberedKey(i), Value(i));
    EXPECT_EQ(absl::IsDataLoss(put), lost.count(i) != 0) << i << ": " << put;
    const absl::Status removed = i % 2 == 0 ? absl::OkStatus() : db().Delete(NumberedKey(i));
    EXPECT_TRUE(removed.ok() || (absl::IsDataLoss(removed) && lost.count(i) != 0)) << removed;
  }
  // Walks say so, too.
  std::unique_ptr<Iterator> it = db().NewIterator();
  uint64_t seen = 0;
  for (it->SeekToFirst(); it->Valid(); it->Next()) ++seen;
  EXPECT_THAT(it->status(), HasCode(absl::StatusCode::kDataLoss));
  const absl::StatusOr<CheckReport> report = db().Check();
  ASSERT_THAT(report.status(), IsOk());
  EXPECT_FALSE(report->faults.empty());
}

// Readers and writers while pages go, one by one: no wrong value, and no key that is not found.
TEST_P(DbMediaTest, NobodyIsToldAWrongValue) {
  constexpr uint64_t kKeys = 2000;
  PutMany(kKeys);
  const uint64_t puts_each = GetParam() == Medium::kTmpfs ? 20 : 3;
  std::vector<char*> pages;
  for (uint64_t i = 100; i < kKeys; i += 200) pages.push_back(PageOf(Place(NumberedKey(i), 500)));
  pages.push_back(PageOf(Leaves(pages[0])[5]));
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> read{0}, lost{0};
  const auto reader = [&](uint64_t seed) {
    while (!stop.load(std::memory_order_relaxed)) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      const uint64_t i = (seed >> 33) % kKeys;
      const absl::StatusOr<std::string> got = db().Get(NumberedKey(i));
      if (got.ok()) {
        EXPECT_EQ(*got, Value(i));
        read.fetch_add(1, std::memory_order_relaxed);
      } else {
        EXPECT_THAT(got.status(), HasCode(absl::StatusCode::kDataLoss));
        lost.fetch_add(1, std::memory_order_relaxed);
      }
    }
  };
  std::thread first(reader, 1), second(reader, 2);
  uint64_t next = kKeys;
  for (char* page : pages) {
    dax::LosePageAt(page);
    for (const uint64_t end = next + puts_each; next < end; ++next) {
      const absl::Status put = db().Put(NumberedKey(next), Value(next));
      EXPECT_TRUE(put.ok() || absl::IsDataLoss(put) || absl::IsInternal(put)) << put;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  stop = true;
  first.join();
  second.join();
  EXPECT_GT(read.load(), 0u);
  EXPECT_GT(lost.load(), 0u);
}

INSTANTIATE_ON_BOTH_MEDIA(DbMediaTest);

}  // namespace
}  // namespace daxkv::kv
