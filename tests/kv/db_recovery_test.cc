// Opening again: how long it takes, and what damaged bytes lead to.
#include <chrono>
#include <cstring>
#include <fstream>
#include <iostream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "kv/record.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

using testing::HasSubstr;

// Where `bytes` lie in the files below a directory.
struct Place {
  std::string file;
  uint64_t offset = 0;
};

std::vector<Place> FindBytes(const std::string& path, std::string_view bytes) {
  std::vector<Place> places;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream in(entry.path(), std::ios::binary);
    std::stringstream content;
    content << in.rdbuf();
    const std::string text = std::move(content).str();
    for (size_t at = text.find(bytes); at != text.npos; at = text.find(bytes, at + 1)) {
      places.push_back({entry.path(), at});
    }
  }
  return places;
}

void WriteBytes(const Place& place, uint64_t skip, std::string_view bytes) {
  std::fstream file(place.file, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(place.offset + skip));
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(file.flush().good());
}

class RecoveryTest : public StoreTest {
 protected:
  double TimedOpenMs() {
    const auto begin = std::chrono::steady_clock::now();
    Open();
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
        .count();
  }

  void Load(int first, int count) {
    std::vector<std::string> keys;
    for (int i = first; i < first + count; ++i) keys.push_back(NumberedKey(i));
    std::vector<KeyValue> group;
    for (const std::string& key : keys) group.push_back({key, key});
    ASSERT_THAT(db().PutGroup(group).status(), IsOk());
  }

  // Overwrites bytes of the closed store's superblock.
  void PatchSuperblock(uint64_t offset, std::string_view bytes) {
    const std::vector<Place> places =
        FindBytes(path(), std::string_view("DAXKV\0SB", sizeof(kSuperblockMagic)));
    ASSERT_EQ(places.size(), 1u);
    WriteBytes(places[0], offset, bytes);
  }
  absl::Status OpenStatus() { return Db::Open(path(), options_).status(); }
};
INSTANTIATE_ON_BOTH_MEDIA(RecoveryTest);

TEST_P(RecoveryTest, OpensInConstantTime) {
  int count = 0;
  for (int target : {1'000, 10'000, 100'000}) {
    Load(count, target - count);
    count = target;
    CloseCleanly();
    const double after_close_ms = TimedOpenMs();
    ASSERT_THAT(db().Put("one more", "write"), IsOk());
    Crash();
    const double after_crash_ms = TimedOpenMs();
    std::cout << count << " records: open " << after_close_ms << " ms after a close, "
              << after_crash_ms << " ms after a crash\n";
    // Far above what it takes, far below a walk over the records under a sanitizer.
    EXPECT_LT(after_close_ms, 500);
    EXPECT_LT(after_crash_ms, 500);
    EXPECT_EQ(GetOrDie(NumberedKey(count - 1)), NumberedKey(count - 1));
  }
}

TEST_P(RecoveryTest, AFlippedBitIsToldAndStaysAlone) {
  Load(0, 1000);
  const std::string value = ValueFor("victim", 0, 777);
  ASSERT_THAT(db().Put(NumberedKey(500), value), IsOk());
  CloseCleanly();
  const std::vector<Place> places = FindBytes(path(), value);
  ASSERT_EQ(places.size(), 1u);
  const std::string flipped(1, static_cast<char>(value[300] ^ 4));
  WriteBytes(places[0], 300, flipped);

  Open();
  for (const absl::Status& damage :
       {db().Get(NumberedKey(500)).status(), db().Pin(NumberedKey(500)).status()}) {
    EXPECT_THAT(damage, HasCode(absl::StatusCode::kDataLoss));
    EXPECT_THAT(damage.message(), HasSubstr(NumberedKey(500)));
    EXPECT_THAT(damage.message(), HasSubstr("offset"));
  }
  for (int i = 0; i < 1000; ++i) {
    if (i != 500) {
      EXPECT_EQ(GetOrDie(NumberedKey(i)), NumberedKey(i));
    }
  }
  // An iterator comes to it, says so, and can be moved past it.
  std::unique_ptr<Iterator> it = db().NewIterator();
  it->Seek(NumberedKey(490));
  for (int i = 490; i < 500; ++i, it->Next()) EXPECT_EQ(it->key(), NumberedKey(i));
  EXPECT_FALSE(it->Valid());
  EXPECT_THAT(it->status(), HasCode(absl::StatusCode::kDataLoss));
  EXPECT_THAT(it->status().message(), HasSubstr(NumberedKey(500)));
  it->Seek(NumberedKey(501));
  EXPECT_EQ(it->key(), NumberedKey(501));
  EXPECT_THAT(it->status(), IsOk());
  it.reset();

  absl::StatusOr<CheckReport> report = db().Check();
  ASSERT_THAT(report.status(), IsOk());
  EXPECT_THAT(report->faults, testing::ElementsAre(HasSubstr("offset")));

  CloseCleanly();
  options_.verify_checksums = false;
  Open();
  std::string damaged = value;
  damaged[300] = flipped[0];
  EXPECT_TRUE(GetOrDie(NumberedKey(500)) == damaged);

  // Replaced, it is sound again.
  ASSERT_THAT(db().Put(NumberedKey(500), "new"), IsOk());
  ExpectClean();
}

TEST_P(RecoveryTest, RefusesANewerFormat) {
  CloseCleanly();
  Superblock newer = {};
  newer.magic = kSuperblockMagic;
  newer.format_version = kFormatVersion + 1;
  newer.checksum = Crc32c(0, &newer, offsetof(Superblock, checksum));
  PatchSuperblock(0, std::string_view(reinterpret_cast<char*>(&newer), 16));
  const absl::Status refused = OpenStatus();
  EXPECT_THAT(refused, HasCode(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(refused.message(), HasSubstr(absl::StrCat("version ", kFormatVersion + 1)));
}

TEST_P(RecoveryTest, TellsADamagedSuperblock) {
  CloseCleanly();
  PatchSuperblock(offsetof(Superblock, format_version), "\x7");
  EXPECT_THAT(OpenStatus(), HasCode(absl::StatusCode::kDataLoss));
}

TEST_P(RecoveryTest, RefusesAPoolOfAnotherProgram) {
  CloseCleanly();
  PatchSuperblock(0, "OTHERAPP");
  const absl::Status refused = OpenStatus();
  EXPECT_THAT(refused, HasCode(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(refused.message(), HasSubstr("something else"));
}

TEST_P(RecoveryTest, ABlankSuperblockAboveDataIsDamage) {
  for (int i = 0; i < 20; ++i) {
    ASSERT_THAT(db().Put(NumberedKey(i), std::string(100'000, 'v')), IsOk());
  }
  CloseCleanly();
  PatchSuperblock(0, std::string(64, '\0'));
  EXPECT_THAT(OpenStatus(), HasCode(absl::StatusCode::kDataLoss));
}

// A crash before the magic was written.
TEST_P(RecoveryTest, ACreationCutShortIsDoneAgain) {
  Crash();
  PatchSuperblock(0, std::string(8, '\0'));
  Open();
  EXPECT_EQ(db().GetInfo()->records, 0u);
  ASSERT_THAT(db().Put("a", "1"), IsOk());
  Crash();
  Open();
  EXPECT_EQ(GetOrDie("a"), "1");
}

}  // namespace
}  // namespace daxkv::kv
