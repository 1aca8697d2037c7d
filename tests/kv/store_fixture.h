// What the tests of kv::Db share: stores on both kinds of medium, and values that name themselves.
#ifndef DAXKV_TESTS_KV_STORE_FIXTURE_H_
#define DAXKV_TESTS_KV_STORE_FIXTURE_H_

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kv/db.h"

namespace daxkv::kv {

// Options as they are, but for the address space that a store may grow to: ThreadSanitizer leaves
// a process no room for the default's.
inline Options TestOptions() {
  Options options;
  options.max_size_bytes = uint64_t{64} << 30;
  return options;
}

enum class Medium { kTmpfs, kDisk };
std::string MediumName(const testing::TestParamInfo<Medium>& info);

// A directory of its own under /dev/shm or $TEST_TMPDIR, removed with the object.
class TemporaryDirectory {
 public:
  explicit TemporaryDirectory(Medium medium);
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  std::string Path(std::string_view name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

// `size_bytes` bytes that only this key and version have.
std::string ValueFor(std::string_view key, uint64_t version, size_t size_bytes);

// "key" and the number with leading zeros: ordered as the numbers are.
std::string NumberedKey(uint64_t number);

// Bytes that the file system holds for everything below `path`.
uint64_t DiskUsageBytes(const std::string& path);

MATCHER(IsOk, "is OK") {
  *result_listener << arg;
  return arg.ok();
}
MATCHER_P(HasCode, code, "has status code " + absl::StatusCodeToString(code)) {
  *result_listener << arg;
  return arg.code() == code;
}

// The store holds these keys and values and no others, and `check` finds no fault.
void ExpectEqual(const Db& db, const std::map<std::string, std::string>& model);

// A store in a directory pool, on the medium that the test is instantiated for.
class StoreTest : public testing::TestWithParam<Medium> {
 protected:
  StoreTest() : directory_(GetParam()), path_(directory_.Path("store")) {}

  void SetUp() override { Open(); }
  void TearDown() override {
    if (db_ != nullptr && !HasFatalFailure()) {
      ExpectClean();
      CloseCleanly();
    }
  }

  void Open();
  // Leaves the store as a crash would.
  void Crash() { db_.reset(); }
  void CloseCleanly();
  void ExpectClean();
  Db& db() { return *db_; }
  const std::string& path() const { return path_; }

  std::string GetOrDie(std::string_view key);

  Options options_ = TestOptions();

 private:
  TemporaryDirectory directory_;
  std::string path_;
  std::unique_ptr<Db> db_;
};

#define INSTANTIATE_ON_BOTH_MEDIA(Suite) \
  INSTANTIATE_TEST_SUITE_P(Media, Suite, testing::Values(Medium::kTmpfs, Medium::kDisk), MediumName)

}  // namespace daxkv::kv

#endif  // DAXKV_TESTS_KV_STORE_FIXTURE_H_
