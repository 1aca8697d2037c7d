// What the tests of Space share: a store of records in a real pool, with a set for its index.
#ifndef DAXKV_TESTS_KV_SPACE_TESTING_H_
#define DAXKV_TESTS_KV_SPACE_TESTING_H_

#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "dax/pool.h"
#include "kv/format.h"
#include "kv/record.h"
#include "kv/space.h"
#include "xarray/rcu.h"

namespace daxkv::kv {

inline constexpr uint64_t kMiB = uint64_t{1} << 20;
inline constexpr char kMemoryFileSystem[] = "/dev/shm";

inline std::string DiskDirectory() {
  const char* directory = getenv("TEST_TMPDIR");
  return directory != nullptr ? directory : "/tmp";
}

class ScratchDirectory {
 public:
  explicit ScratchDirectory(const std::string& parent) : path_(parent + "/space_test_XXXXXX") {
    if (mkdtemp(path_.data()) == nullptr) ADD_FAILURE() << "cannot make " << path_;
  }
  ~ScratchDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// The index: the set of addresses that count. Survives the "crashes" of its store.
class ToyIndex : public LivenessOracle {
 public:
  absl::StatusOr<bool> IsLive(SlotKind, Address address) override {
    questions_.fetch_add(1, std::memory_order_relaxed);
    return Contains(address);
  }
  bool Contains(Address address) {
    std::lock_guard<std::mutex> lock(mutex_);
    return live_.count(address) != 0;
  }
  // False: it was there.
  bool Add(Address address) {
    std::lock_guard<std::mutex> lock(mutex_);
    return live_.insert(address).second;
  }
  bool Remove(Address address) {
    std::lock_guard<std::mutex> lock(mutex_);
    return live_.erase(address) != 0;
  }
  std::set<Address> All() {
    std::lock_guard<std::mutex> lock(mutex_);
    return live_;
  }
  uint64_t questions() const { return questions_.load(std::memory_order_relaxed); }

 private:
  std::mutex mutex_;
  std::set<Address> live_;
  std::atomic<uint64_t> questions_{0};
};

class TestStore {
 public:
  explicit TestStore(const std::string& parent = kMemoryFileSystem)
      : own_directory_(parent), path_(own_directory_->path() + "/pool") {
    options_.max_size_bytes = uint64_t{2} << 30;
    Open();
  }
  // In somebody else's directory: one store there at a time.
  explicit TestStore(const ScratchDirectory& directory) : path_(directory.path() + "/pool") {
    options_.max_size_bytes = uint64_t{2} << 30;
    Open();
  }
  // A pool of a fixed size.
  TestStore(const std::string& parent, uint64_t fixed_size_bytes)
      : own_directory_(parent), path_(own_directory_->path() + "/pool") {
    options_.shape = dax::PoolShape::kFixed;
    options_.fixed_size_bytes = fixed_size_bytes;
    Open();
  }

  void Open() {
    absl::StatusOr<std::unique_ptr<dax::Pool>> pool = dax::Pool::Open(path_, options_);
    if (!pool.ok()) {
      ADD_FAILURE() << pool.status();
      abort();
    }
    pool_ = *std::move(pool);
    absl::StatusOr<std::unique_ptr<Space>> space = Space::Open(pool_.get());
    if (!space.ok()) {
      ADD_FAILURE() << space.status();
      abort();
    }
    space_ = *std::move(space);
    space_->SetLivenessOracle(&index_);
  }
  void Close() {
    const absl::Status space_closed = space_->Close();
    EXPECT_TRUE(space_closed.ok()) << space_closed;
    space_.reset();
    const absl::Status pool_closed = pool_->Close();
    EXPECT_TRUE(pool_closed.ok()) << pool_closed;
    pool_.reset();
  }
  // As far as the medium can tell, the process died.
  void Crash() {
    space_.reset();
    pool_.reset();
  }

  dax::Pool& pool() { return *pool_; }
  Space& space() { return *space_; }
  ToyIndex& index() { return index_; }

  // A written record of `size_bytes` in all that no index knows; 0 on an error.
  Address NewRecord(uint64_t size_bytes) {
    const absl::StatusOr<Address> address = space_->Allocate(SlotKind::kRecord, size_bytes);
    if (!address.ok()) return kNullAddress;
    const std::string key = std::to_string(*address);
    const uint64_t value_size_bytes = std::min(
        kMaxValueSizeBytes, size_bytes - std::min(size_bytes, RecordSizeBytes(key.size(), 0)));
    // No two records are alike, also not in one slot.
    const uint64_t sequence = sequence_.fetch_add(1, std::memory_order_relaxed);
    const std::string value(value_size_bytes, static_cast<char>('a' + sequence % 26));
    if (RecordSizeBytes(key.size(), value.size()) <= size_bytes) {
      WriteRecord(*space_, *address, kValueRecord, sequence, key, value);
    } else {
      WriteRecord(*space_, *address, kValueRecord, sequence, "k", "");
    }
    return *address;
  }
  Address Put(uint64_t size_bytes) {
    const Address address = NewRecord(size_bytes);
    EXPECT_NE(address, kNullAddress);
    // An index refers to what is durable: this commits new extents too.
    EXPECT_TRUE(space_->Drain().ok());
    EXPECT_TRUE(index_.Add(address)) << "slot " << address << " was handed out twice";
    return address;
  }
  // With one wait for the medium.
  std::vector<Address> PutMany(size_t count, uint64_t size_bytes) {
    std::vector<Address> addresses;
    while (addresses.size() < count) addresses.push_back(NewRecord(size_bytes));
    EXPECT_TRUE(space_->Drain().ok());
    for (const Address address : addresses) {
      EXPECT_NE(address, kNullAddress);
      EXPECT_TRUE(index_.Add(address)) << "slot " << address << " was handed out twice";
    }
    return addresses;
  }
  void Remove(Address address) {
    rcu::ReadGuard guard;
    EXPECT_TRUE(index_.Remove(address));
    space_->Retire(address, nullptr);
  }
  // Whether the record at `address` is all there and right.
  absl::Status Verify(Address address) {
    absl::Status faulted = space_->FaultIn(address);
    if (!faulted.ok()) return faulted;
    rcu::ReadGuard guard;
    const absl::StatusOr<RecordView> record = ViewRecord(*space_, address);
    if (!record.ok()) return record.status();
    return VerifyRecord(*space_, *record);
  }
  // The faults that Audit finds.
  std::vector<std::string> Audit() {
    std::vector<std::string> faults;
    const absl::StatusOr<uint64_t> compared =
        space_->Audit([this](Address address) { return index_.Contains(address); },
                      [&faults](std::string fault) { faults.push_back(std::move(fault)); });
    if (!compared.ok()) faults.push_back(compared.status().ToString());
    return faults;
  }
  SpaceStats stats() {
    EXPECT_TRUE(space_->Drain().ok());  // Commits new extents.
    const absl::StatusOr<SpaceStats> stats = space_->stats();
    EXPECT_TRUE(stats.ok()) << stats.status();
    return stats.ok() ? *stats : SpaceStats();
  }
  uint64_t file_blocks_bytes() {
    const absl::StatusOr<dax::PoolStats> stats = pool_->Stats();
    EXPECT_TRUE(stats.ok()) << stats.status();
    return stats.ok() ? stats->file_blocks_bytes : 0;
  }

 private:
  std::optional<ScratchDirectory> own_directory_;
  const std::string path_;
  dax::PoolOptions options_;
  ToyIndex index_;
  std::atomic<uint64_t> sequence_{1};
  std::unique_ptr<dax::Pool> pool_;
  std::unique_ptr<Space> space_;
};

}  // namespace daxkv::kv

#endif  // DAXKV_TESTS_KV_SPACE_TESTING_H_
