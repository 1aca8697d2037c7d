#include "dax/object_heap.h"

#include <fcntl.h>
#include <libpmemobj.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <exception>
#include <libpmemobj++/persistent_ptr.hpp>
#include <libpmemobj++/transaction.hpp>
#include <mutex>
#include <random>
#include <string_view>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "dax/exceptions.h"
#include "dax/object_chunks.h"
#include "dax/object_lanes.h"
#include "dax/segment.h"

namespace daxkv::dax {
namespace {

// Type numbers of our objects in libpmemobj's eyes.
constexpr uint64_t kRootTypeNumber = 1;
constexpr uint64_t kSegmentTypeNumber = 2;
constexpr uint64_t kRootAlignment = 64;
constexpr std::string_view kPoolSignature("PMEMOBJ\0", 8);

using PmemobjInteger = long long;  // NOLINT(google-runtime-int): of its control interface.

// Runs `call`, which may throw as libpmemobj-cpp does.
template <typename Call>
absl::Status Translate(const std::string& action, Call call) {
  // A transaction that can't begin, for want of memory, libpmemobj leaves aborted, and dies of a
  // null pointer if it is told to end it.
  if (pmemobj_tx_stage() == TX_STAGE_ONABORT) {
    return MakeStatus(absl::StatusCode::kResourceExhausted, "cannot ", action,
                      ": libpmemobj ran out of memory in this thread before and can't begin a ",
                      "transaction there any more; use another thread");
  }
  errno = 0;
  try {
    call();
    return absl::OkStatus();
  } catch (const std::bad_alloc&) {
    return MakeStatus(absl::StatusCode::kResourceExhausted, "cannot ", action, ": out of memory");
  } catch (const std::exception& failure) {
    const int error = errno;
    const std::string message = absl::StrCat("cannot ", action, ": ", failure.what());
    if (error == EAGAIN || error == EWOULDBLOCK) {
      return absl::FailedPreconditionError(message + " (held by another process)");
    }
    if (error == 0 || error == EINVAL) return absl::FailedPreconditionError(message);
    return absl::ErrnoToStatus(error, message);
  }
}

// libpmemobj's record of unsafe shutdowns. It sums up the devices of all the part files as they are
// at an open: a pool that has grown since is taken for one on a failed device, and after a crash
// refuses to open ever again. On real NVDIMMs its counters can't even be read without privilege.
constexpr char kShutdownState[] = "sds.at_create";
// Whether it gives a new part all its blocks, which is for us to do, a little at a time.
constexpr char kFullAllocation[] = "fallocate.at_create";

// Turns one of libpmemobj's settings off meanwhile. They are of the whole process.
class Without {
 public:
  explicit Without(const char* setting) : lock_(mutex_), setting_(setting) {
    pmemobj_ctl_get(nullptr, setting_, &before_);
    int off = 0;
    pmemobj_ctl_set(nullptr, setting_, &off);
  }
  Without(const Without&) = delete;
  Without& operator=(const Without&) = delete;
  ~Without() { pmemobj_ctl_set(nullptr, setting_, &before_); }

 private:
  static inline std::mutex mutex_;
  std::lock_guard<std::mutex> lock_;
  const char* const setting_;
  int before_ = 1;
};

}  // namespace

ObjectHeap::ObjectHeap(pmem::obj::pool<RootObject> pool) : pool_(std::move(pool)) {
  base_ = reinterpret_cast<char*>(pool_.handle());
}

// libpmemobj-cpp's own open and create leave the pool open, and locked, when there is no memory for
// what they attach to it; so the pool is opened and closed by libpmemobj's.
std::unique_ptr<ObjectHeap> ObjectHeap::Own(pmemobjpool* handle, const char* failure) {
  if (handle == nullptr) throw pmem::pool_error(failure).with_pmemobj_errormsg();
  absl::Cleanup close_pool = [handle] { pmemobj_close(handle); };
  std::unique_ptr<ObjectHeap> heap(
      new ObjectHeap(pmem::obj::pool<RootObject>(pmem::obj::pool_base(handle))));
  std::move(close_pool).Cancel();
  return heap;
}

ObjectHeap::~ObjectHeap() {
  // libpmemobj reads its own pages once more.
  const SurviveMediaErrors survive;
  pmemobj_close(pool_.handle());
}

absl::StatusOr<std::unique_ptr<ObjectHeap>> ObjectHeap::Create(const std::string& path,
                                                               uint64_t size_bytes,
                                                               const Protection& protection) {
  std::unique_ptr<ObjectHeap> heap;
  absl::Status status = Translate(absl::StrCat("create a pool at ", path), [&] {
    const Without without_shutdown_state(kShutdownState);
    heap = Own(pmemobj_create(path.c_str(), kLayoutName, size_bytes, 0644), "Failed creating pool");
    heap->WriteRoot();
  });
  if (status.ok()) status = heap->Protect(protection);
  if (!status.ok()) return status;
  return heap;
}

absl::Status ObjectHeap::CheckFirstFile(const std::string& file) {
  const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", file));
  const absl::Cleanup close_fd = [fd] { close(fd); };
  struct stat info = {};
  if (fstat(fd, &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot examine ", file));
  }
  if (S_ISCHR(info.st_mode)) return absl::OkStatus();
  if (static_cast<uint64_t>(info.st_size) < PMEMOBJ_MIN_POOL) {
    return absl::FailedPreconditionError(
        absl::StrCat(file, " is ", info.st_size, " bytes long, shorter than any pool: it is not ",
                     "one, or it was cut short"));
  }
  std::array<char, kPoolSignature.size()> first_bytes = {};
  const ssize_t got = pread(fd, first_bytes.data(), first_bytes.size(), 0);
  if (got < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", file));
  if (std::string_view(first_bytes.data(), first_bytes.size()) != kPoolSignature) {
    return absl::FailedPreconditionError(
        absl::StrCat(file, " does not begin as a pool does: it is something else"));
  }
  return CheckLanes(fd, file);
}

absl::StatusOr<std::unique_ptr<ObjectHeap>> ObjectHeap::Open(const std::string& path,
                                                             const Protection& protection) {
  std::unique_ptr<ObjectHeap> heap;
  absl::Status status = Translate(absl::StrCat("open ", path, " as a pool"), [&] {
    heap = Own(pmemobj_open(path.c_str(), kLayoutName), "Failed opening pool");
    // The pool grows when we say so, by as much as we say.
    heap->pool_.ctl_set<PmemobjInteger>("heap.size.granularity", 0);
  });
  if (status.ok()) status = heap->Protect(protection);
  if (status.ok()) status = heap->FindRoot(path);
  if (!status.ok()) return status;
  return heap;
}

absl::Status ObjectHeap::Protect(const Protection& protection) {
  absl::StatusOr<std::unique_ptr<SigbusRegion>> region =
      SigbusRegion::Register(base_, protection.reach_bytes, protection.policy, &lost_pages_);
  if (!region.ok()) return region.status();
  region_ = *std::move(region);
  return absl::OkStatus();
}

void ObjectHeap::WriteRoot() {
  pool_.ctl_set<PmemobjInteger>("heap.size.granularity", 0);
  pobj_alloc_class_desc root_class = {};
  root_class.unit_size = sizeof(PoolRoot) + kRootAlignment;  // libpmemobj's header is in there.
  root_class.alignment = kRootAlignment;
  root_class.units_per_block = 1;
  root_class.header_type = POBJ_HEADER_COMPACT;
  root_class = pool_.ctl_set("heap.alloc_class.new.desc", root_class);
  std::random_device random;
  pmem::obj::transaction::run(pool_, [&] {
    const PMEMoid object = pmemobj_tx_xalloc(sizeof(PoolRoot), kRootTypeNumber,
                                             POBJ_XALLOC_ZERO | POBJ_CLASS_ID(root_class.class_id));
    if (OID_IS_NULL(object)) throw pmem::transaction_alloc_error("no room for the pool's root");
    pool_.root()->pool_root_offset = object.off;
    root_ = reinterpret_cast<PoolRoot*>(base_ + object.off);
    root_->magic = kRootMagic;
    root_->format_version = kFormatVersion;
    root_->page_size_bytes = static_cast<uint32_t>(kPageSizeBytes);
    for (auto& half : root_->uuid) half = (uint64_t{random()} << 32) | random();
    root_->checksum = Checksum(root_, kRootChecksumSpan);
    root_->open_epoch = Pool::SealEpoch(0);
    root_->clean = Pool::SealEpoch(0);
  });
}

absl::Status ObjectHeap::FindRoot(const std::string& path) {
  uint64_t offset = 0;
  absl::Status status = Translate(absl::StrCat("read the root of ", path),
                                  [&] { offset = pool_.root()->pool_root_offset; });
  if (!status.ok()) return status;
  const SurviveMediaErrors survive;
  if (offset != 0 && offset % kRootAlignment == 0 && offset <= kFirstBytes - sizeof(PoolRoot)) {
    root_ = reinterpret_cast<PoolRoot*>(base_ + offset);
  }
  const bool lost = root_ != nullptr && root_->magic != kRootMagic && lost_pages_.any();
  if (lost) {
    return absl::DataLossError(absl::StrCat(path, ": the pool's root at pool offset ", offset,
                                            " is lost to a media error; restore the pool from a "
                                            "copy"));
  }
  if (root_ == nullptr || root_->magic != kRootMagic) {
    return absl::DataLossError(absl::StrCat(path, ": the pool's root is damaged or unfinished"));
  }
  if (root_->format_version > kFormatVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, " has format version ", root_->format_version.get_ro(),
        "; this program knows versions up to ", kFormatVersion, ": open it with a newer program"));
  }
  if (root_->format_version != 0 && root_->format_version < kFormatVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, " has format version ", root_->format_version.get_ro(), ", of before the first ",
        "release; copy its records with the program that made it"));
  }
  if (root_->checksum != Checksum(root_, kRootChecksumSpan) || root_->format_version == 0 ||
      root_->page_size_bytes != kPageSizeBytes || root_->segment_count > kMaxSegments) {
    return absl::DataLossError(absl::StrCat(path, ": the pool's root is damaged"));
  }
  return absl::OkStatus();
}

absl::Status ObjectHeap::Extend(uint64_t size_bytes) {
  const Without without_full_allocation(kFullAllocation);
  auto step = static_cast<PmemobjInteger>(size_bytes);
  // libpmemobj overwrites errno on its way out, so its text is all there is to go by.
  if (pmemobj_ctl_exec(pool_.handle(), "heap.size.extend", &step) == 0) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("cannot grow the pool by ", size_bytes, " bytes: ", pmemobj_errormsg()));
}

absl::Status ObjectHeap::AppendSegment(uint64_t most_bytes, uint64_t least_bytes,
                                       const Reserve& reserve) {
  if (root_->segment_count >= kMaxSegments) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the pool has all the ", kMaxSegments, " segments that it can have"));
  }
  constexpr uint64_t kChunkBytes = ObjectChunks::kChunkBytes;
  const uint64_t least_chunks =
      std::max<uint64_t>((least_bytes + kChunkBytes - 1) / kChunkBytes, 1);
  bool appended = false;
  absl::Status reserved;
  // One transaction for all attempts: each costs two fences.
  absl::Status status = Translate("add a segment", [&] {
    pmem::obj::transaction::run(pool_, [&] {
      uint64_t chunks = std::max(most_bytes / kChunkBytes, least_chunks);
      while (true) {
        // A page below whole chunks: room for libpmemobj's own header.
        appended = TryAppendSegment(chunks * kChunkBytes - kPageSizeBytes, reserve, &reserved);
        if (appended || !reserved.ok() || chunks == least_chunks) break;
        // Ever smaller, and the least that will do in the end.
        chunks = std::max(chunks - std::max<uint64_t>(chunks / 64, 1), least_chunks);
      }
    });
  });
  if (!status.ok()) return status;
  if (!reserved.ok()) return reserved;
  if (appended) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("the pool's heap has no object of ", least_bytes, " bytes"));
}

// In a transaction. *reserved tells why blocks could not be had.
bool ObjectHeap::TryAppendSegment(uint64_t size_bytes, const Reserve& reserve,
                                  absl::Status* reserved) {
  // No flush by libpmemobj: it would write back every page of the segment.
  const PMEMoid object = pmemobj_tx_xalloc(size_bytes, kSegmentTypeNumber,
                                           POBJ_XALLOC_NO_FLUSH | POBJ_XALLOC_NO_ABORT);
  if (OID_IS_NULL(object)) return false;
  *reserved = reserve(object.off, Segment::FormatBytes(object.off, size_bytes));
  const uint64_t used_bytes = reserved->ok() ? Segment::Format(base(), object.off, size_bytes) : 0;
  if (used_bytes == 0) {
    pmemobj_tx_free(object);
    return false;
  }
  pool_.persist(base() + object.off, used_bytes);
  const uint64_t count = root_->segment_count;
  root_->segments[count].object_offset = object.off;
  root_->segments[count].object_size_bytes = size_bytes;
  root_->segment_count = count + 1;
  return true;
}

absl::Status ObjectHeap::RemoveSegment(uint64_t number) {
  return Translate("give a segment back", [&] {
    pmem::obj::transaction::run(pool_, [&] {
      PMEMoid object = pmemobj_oid(base_ + root_->segments[number].object_offset);
      if (OID_IS_NULL(object)) throw pmem::transaction_free_error("no such object");
      const uint64_t last = root_->segment_count - 1;
      root_->segments[number].object_offset = root_->segments[last].object_offset.get_ro();
      root_->segments[number].object_size_bytes = root_->segments[last].object_size_bytes.get_ro();
      root_->segments[last].object_offset = 0;
      root_->segments[last].object_size_bytes = 0;
      root_->segment_count = last;
      pmemobj_tx_free(object);
    });
  });
}

void ObjectHeap::StoreDurably(pmem::obj::p<uint64_t>& word, uint64_t value) {
  __atomic_store_n(&word.get_rw(), value, __ATOMIC_RELEASE);
  pool_.persist(&word, sizeof(word));
}

}  // namespace daxkv::dax
