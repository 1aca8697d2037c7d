// With process durability no operation waits for the medium: it may begin extents, split leaves or
// free what it retired, and libpmemobj's own msyncs count as ours. The files grow, and are written
// back, in the background. (Who outruns that growth grows them, and waits; this test does not.)
//
// This binary stands in for the calls that wait for a medium, and passes them on.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "kv/write_batch.h"
#include "tests/kv/store_fixture.h"

namespace {

thread_local int t_waits = 0;
std::atomic<int> g_waits{0};

void NoteWait() {
  ++t_waits;
  g_waits.fetch_add(1);
}

}  // namespace

extern "C" {
int msync(void* address, size_t size_bytes, int flags) {
  NoteWait();
  return static_cast<int>(syscall(SYS_msync, address, size_bytes, flags));
}
int fsync(int fd) {
  NoteWait();
  return static_cast<int>(syscall(SYS_fsync, fd));
}
int fdatasync(int fd) {
  NoteWait();
  return static_cast<int>(syscall(SYS_fdatasync, fd));
}
int sync_file_range(int fd, off64_t offset, off64_t size_bytes, unsigned flags) {
  NoteWait();
  return static_cast<int>(syscall(SYS_sync_file_range, fd, offset, size_bytes, flags));
}
}

namespace daxkv::kv {
namespace {

constexpr uint64_t kRecords = 60'000;
constexpr size_t kValueSizeBytes = 1000;

class ProcessWaitTest : public testing::Test {
 protected:
  ProcessWaitTest() : directory_(Medium::kDisk) {
    Options options = TestOptions();
    options.durability = dax::Durability::kProcess;
    absl::StatusOr<std::unique_ptr<Db>> opened = Db::Open(directory_.Path("store"), options);
    EXPECT_THAT(opened.status(), IsOk());
    db_ = *std::move(opened);
  }

  // None of the calls that `operation` makes may wait.
  void Run(const std::string& name, const std::function<absl::Status()>& operation) {
    const int before = t_waits;
    ASSERT_THAT(operation(), IsOk()) << name;
    EXPECT_EQ(t_waits - before, 0) << name << " waited for the medium";
  }

  // `operation` with each number below `count`.
  void RunEach(const std::string& name, uint64_t count,
               const std::function<absl::Status(uint64_t)>& operation) {
    Run(name, [&] {
      absl::Status status;
      for (uint64_t i = 0; i < count && status.ok(); ++i) status = operation(i);
      return status;
    });
  }

  // Until the background has grown the files for so much and some more.
  void AwaitRoom(uint64_t used_bytes) {
    const uint64_t wanted_bytes = used_bytes + used_bytes / 10 + (4 << 20);
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (db_->GetStats()->file_size_bytes < wanted_bytes && absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    EXPECT_GE(db_->GetStats()->file_size_bytes, wanted_bytes) << "nothing grows";
  }

  TemporaryDirectory directory_;
  std::unique_ptr<Db> db_;
};

TEST_F(ProcessWaitTest, NoOperationWaitsForTheMedium) {
  Db& db = *db_;
  const std::string value = ValueFor("value", 0, kValueSizeBytes);
  const uint64_t size_bytes_before = DiskUsageBytes(directory_.Path("store"));
  RunEach("Put", kRecords, [&](uint64_t i) {
    if (i % 512 == 0) AwaitRoom(i * kValueSizeBytes);
    return db.Put(NumberedKey(i), value);
  });
  EXPECT_GT(DiskUsageBytes(directory_.Path("store")),
            size_bytes_before + kRecords * kValueSizeBytes)
      << "the store did not grow";
  RunEach("overwriting Put", kRecords, [&](uint64_t i) { return db.Put(NumberedKey(i), value); });
  RunEach("Get", kRecords, [&](uint64_t i) { return db.Get(NumberedKey(i)).status(); });
  RunEach("Delete", kRecords / 2, [&](uint64_t i) { return db.Delete(NumberedKey(i * 2)); });
  RunEach("Update", 1000, [&](uint64_t i) {
    return db.Update(NumberedKey(i * 2 + 1),
                     [&](std::optional<std::string_view>, std::string* desired) {
                       *desired = value + "x";
                       return absl::StatusOr<UpdateAction>(UpdateAction::kPut);
                     });
  });
  RunEach("CompareAndSwap", 1000,
          [&](uint64_t i) { return db.CompareAndSwap(NumberedKey(i * 2), std::nullopt, value); });
  RunEach("large values", 8,
          [&](uint64_t i) { return db.Put(NumberedKey(i), std::string(3 << 20, 'x')); });
  RunEach("ValueWriter", 8, [&](uint64_t i) {
    absl::StatusOr<ValueWriter> writer = db.NewValueWriter(NumberedKey(i), 1 << 20);
    if (!writer.ok()) return writer.status();
    return writer->Commit();
  });
  std::vector<std::string> keys;
  for (uint64_t i = 0; i < 2000; ++i) keys.push_back(NumberedKey(i * 3));
  std::vector<KeyValue> group;
  for (const std::string& key : keys) group.push_back({key, value});
  Run("PutGroup", [&] { return db.PutGroup(group).status(); });
  Run("Write", [&] {
    WriteBatch batch;
    absl::Status status;
    for (const std::string& key : keys) status.Update(batch.Put(key, value));
    for (size_t i = 0; i < keys.size(); i += 2) status.Update(batch.Delete(keys[i]));
    status.Update(db.Write(batch));
    return status;
  });
  Run("puts beside a snapshot", [&] {
    const absl::StatusOr<Snapshot> snapshot = db.GetSnapshot();
    if (!snapshot.ok()) return snapshot.status();
    absl::Status status;
    for (const std::string& key : keys) status.Update(db.Put(key, value));
    return status;
  });
  Run("DeleteRange",
      [&] { return db.DeleteRange(NumberedKey(0), NumberedKey(kRecords)).status(); });
}

// Else the test above would hold of a store that nothing watches.
TEST_F(ProcessWaitTest, SyncWaits) {
  ASSERT_THAT(db_->Put("key", "value"), IsOk());
  const int before = g_waits;
  ASSERT_THAT(db_->Sync(), IsOk());
  EXPECT_GT(g_waits - before, 0);
}

}  // namespace
}  // namespace daxkv::kv
