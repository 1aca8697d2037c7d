#include "tests/kv/store_fixture.h"

#include <stdlib.h>
#include <sys/stat.h>

#include <cstring>
#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace daxkv::kv {

std::string MediumName(const testing::TestParamInfo<Medium>& info) {
  return info.param == Medium::kTmpfs ? "Tmpfs" : "Disk";
}

TemporaryDirectory::TemporaryDirectory(Medium medium) {
  const std::string base = medium == Medium::kTmpfs ? "/dev/shm" : testing::TempDir();
  std::string path = base + "/daxkv_test_XXXXXX";
  if (mkdtemp(path.data()) == nullptr) {
    ADD_FAILURE() << "mkdtemp " << path << ": " << strerror(errno);
    abort();
  }
  path_ = path;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string ValueFor(std::string_view key, uint64_t version, size_t size_bytes) {
  uint64_t state = std::hash<std::string_view>()(key) ^ (version * 0x9e3779b97f4a7c15);
  std::string value(size_bytes, '\0');
  for (size_t at = 0; at < size_bytes; at += sizeof(state)) {
    state += 0x9e3779b97f4a7c15;
    uint64_t mixed = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9;
    mixed ^= mixed >> 31;
    memcpy(&value[at], &mixed, std::min(sizeof(mixed), size_bytes - at));
  }
  return value;
}

std::string NumberedKey(uint64_t number) { return absl::StrFormat("key%012d", number); }

void ExpectEqual(const Db& db, const std::map<std::string, std::string>& model) {
  for (const auto& [key, value] : model) {
    absl::StatusOr<std::string> got = db.Get(key);
    ASSERT_THAT(got.status(), IsOk()) << key;
    ASSERT_TRUE(*got == value) << key;
  }
  absl::StatusOr<CheckReport> report = db.Check();
  ASSERT_THAT(report.status(), IsOk());
  EXPECT_THAT(report->faults, testing::IsEmpty());
  EXPECT_EQ(report->records, model.size());
}

uint64_t DiskUsageBytes(const std::string& path) {
  uint64_t size_bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
    struct stat status;
    if (stat(entry.path().c_str(), &status) == 0) size_bytes += status.st_blocks * 512;
  }
  return size_bytes;
}

void StoreTest::Open() {
  db_.reset();
  absl::StatusOr<std::unique_ptr<Db>> opened = Db::Open(path_, options_);
  ASSERT_THAT(opened.status(), IsOk());
  db_ = *std::move(opened);
}

void StoreTest::CloseCleanly() {
  ASSERT_THAT(db_->Close(), IsOk());
  db_.reset();
}

void StoreTest::ExpectClean() {
  absl::StatusOr<CheckReport> report = db_->Check();
  ASSERT_THAT(report.status(), IsOk());
  EXPECT_THAT(report->faults, testing::IsEmpty());
}

std::string StoreTest::GetOrDie(std::string_view key) {
  absl::StatusOr<std::string> value = db_->Get(key);
  EXPECT_THAT(value.status(), IsOk()) << key;
  return value.ok() ? *value : absl::StrCat("<", value.status().ToString(), ">");
}

}  // namespace daxkv::kv
