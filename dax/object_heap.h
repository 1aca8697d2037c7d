// The libpmemobj pool under a daxkv pool: the one place that calls libpmemobj and libpmemobj-cpp,
// and so the one place where their exceptions become statuses.
//
// Thread safety: none; the pool calls it under its growth mutex, and at open and close.
#ifndef DAXKV_DAX_OBJECT_HEAP_H_
#define DAXKV_DAX_OBJECT_HEAP_H_

#include <cstdint>
#include <functional>
#include <libpmemobj++/pool.hpp>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "dax/lost_pages.h"
#include "dax/pool_format.h"
#include "dax/sigbus.h"

namespace daxkv::dax {

class ObjectHeap {
 public:
  // Who survives media errors in the pool's mapping, and how far that may ever reach.
  struct Protection {
    SigbusPolicy policy = SigbusPolicy::kOff;
    uint64_t reach_bytes = 0;
  };

  // Creates a libpmemobj pool: by a set file (size 0), in a new file of that size, or on a device
  // (size 0). Its root is written and its segment table empty.
  static absl::StatusOr<std::unique_ptr<ObjectHeap>> Create(const std::string& path,
                                                            uint64_t size_bytes,
                                                            const Protection& protection);
  // Whether `file` can be the first file of a pool, by its length and first bytes: libpmemobj maps
  // it before it looks. A device passes.
  //   kNotFound, kPermissionDenied  it can't be opened
  //   kFailedPrecondition           it is not a pool, or was cut short
  //   kDataLoss                     libpmemobj's logs are damaged so that it would die of them, or
  //                                 what it reads at every open can't be read
  static absl::Status CheckFirstFile(const std::string& file);
  // Opens one, whose first file was checked, and checks its root.
  //   kFailedPrecondition  not a pool of ours, a newer format, held by another process
  //   kDataLoss            the root is damaged
  static absl::StatusOr<std::unique_ptr<ObjectHeap>> Open(const std::string& path,
                                                          const Protection& protection);
  // Unmaps everything.
  ~ObjectHeap();
  ObjectHeap(const ObjectHeap&) = delete;
  ObjectHeap& operator=(const ObjectHeap&) = delete;

  char* base() const { return base_; }
  PoolRoot* root() const { return root_; }
  LostPages& lost_pages() { return lost_pages_; }

  // Grows a pool made by a set file by one part of `size_bytes`. A file that is there for it is
  // taken as it is (BackingFiles::MakeNextPart).
  //   kResourceExhausted  no room on the file system, or the set's limit
  absl::Status Extend(uint64_t size_bytes);
  // Takes an object of at most `most_bytes`, as large as the heap allows but not below
  // `least_bytes`, formats it as a segment and enters it in the segment table: all in one
  // transaction, whose commit is the commit point. A crash before it leaves no trace. `reserve`
  // gives the bytes blocks that the format is about to be written to; its error is returned.
  //   kResourceExhausted  the heap has no object of that size, or the table is full
  using Reserve = std::function<absl::Status(uint64_t offset, uint64_t size_bytes)>;
  absl::Status AppendSegment(uint64_t most_bytes, uint64_t least_bytes, const Reserve& reserve);
  // Gives the object of a segment without runs back to libpmemobj and moves the table's last entry
  // to its place: one transaction, whose commit is the commit point. A crash before it leaves the
  // segment as it was; after it, the object is free heap.
  absl::Status RemoveSegment(uint64_t number);
  // Stores one word of the root, durably. The 8-byte store commits it.
  void StoreDurably(pmem::obj::p<uint64_t>& word, uint64_t value);

 private:
  explicit ObjectHeap(pmem::obj::pool<RootObject> pool);
  // Throws if there is no handle; closes the pool if there is no memory for an ObjectHeap.
  static std::unique_ptr<ObjectHeap> Own(pmemobjpool* handle, const char* failure);
  void WriteRoot();
  absl::Status Protect(const Protection& protection);
  absl::Status FindRoot(const std::string& path);
  bool TryAppendSegment(uint64_t size_bytes, const Reserve& reserve, absl::Status* reserved);

  pmem::obj::pool<RootObject> pool_;
  char* base_ = nullptr;
  PoolRoot* root_ = nullptr;
  LostPages lost_pages_;
  std::unique_ptr<SigbusRegion> region_;
};

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_OBJECT_HEAP_H_
