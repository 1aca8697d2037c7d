#include "dax/pool.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "dax/backing_files.h"
#include "dax/bad_pages.h"
#include "dax/exceptions.h"
#include "dax/frame_table.h"
#include "dax/lock_file.h"
#include "dax/mapping_impl.h"
#include "dax/object_chunks.h"
#include "dax/object_heap.h"
#include "dax/page_space.h"
#include "dax/persist.h"
#include "dax/store_directory.h"

namespace daxkv::dax {
namespace {

constexpr uint64_t kLeastMaxSizeBytes = uint64_t{64} << 20;
constexpr uint64_t kMostMaxSizeBytes = uint64_t{16} << 40;
constexpr uint64_t kLeastFixedSizeBytes = uint64_t{16} << 20;

enum class PathType { kMissing, kDirectory, kFile, kDevice, kOther };

absl::StatusOr<PathType> TypeOf(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) return PathType::kMissing;
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot examine ", path));
  }
  if (S_ISDIR(info.st_mode)) return PathType::kDirectory;
  if (S_ISREG(info.st_mode)) return PathType::kFile;
  return S_ISCHR(info.st_mode) ? PathType::kDevice : PathType::kOther;
}

absl::Status NotFound(const std::string& path) {
  return absl::NotFoundError(absl::StrCat("there is no pool at ", path));
}

absl::Status AlreadyThere(const std::string& path) {
  return absl::AlreadyExistsError(absl::StrCat("there is a pool already at ", path));
}

absl::Status CheckOptions(const std::string& path, const PoolOptions& options) {
  if (path.empty()) return absl::InvalidArgumentError("the pool's path is empty");
  if (options.max_size_bytes < kLeastMaxSizeBytes || options.max_size_bytes > kMostMaxSizeBytes) {
    return absl::InvalidArgumentError(absl::StrCat("max_size_bytes must be ", kLeastMaxSizeBytes,
                                                   "..", kMostMaxSizeBytes, ", not ",
                                                   options.max_size_bytes));
  }
  return absl::OkStatus();
}

}  // namespace

// Declared in the order in which they depend on each other, so they go in the right one.
struct Pool::Impl {
  std::string path;
  PoolShape shape = PoolShape::kDirectory;
  MediaInfo media;
  uint64_t open_epoch = 0;
  bool was_clean = false;
  std::optional<uint64_t> last_clean_epoch;
  bool created = false;
  SigbusPolicy sigbus = SigbusPolicy::kGuarded;
  bool huge_pages = false;

  std::unique_ptr<LockFile> lock;
  std::unique_ptr<StoreDirectory> directory;
  std::unique_ptr<ObjectHeap> heap;
  std::unique_ptr<BackingFiles> files;
  std::unique_ptr<Persister> persister;
  std::unique_ptr<BadPages> bad_pages;
  std::unique_ptr<PageSpace> space;
  std::mutex settle_mutex;

  absl::Status OpenDirectory(const PoolOptions& options);
  absl::Status OpenParts();
  absl::Status CreateDirectory(const PoolOptions& options);
  absl::Status OpenFixed(const PoolOptions& options, PathType type);
  absl::Status CreateFixed(const PoolOptions& options, PathType type);
  absl::Status SetUp();
  absl::Status Start();
  absl::Status Settle(Pool* pool);
  void Shut();
};

absl::StatusOr<std::unique_ptr<Pool>> Pool::Open(const std::string& path,
                                                 const PoolOptions& options) {
  return WithoutExceptions([&]() -> absl::StatusOr<std::unique_ptr<Pool>> {
    absl::Status status = CheckOptions(path, options);
    if (!status.ok()) return status;
    const absl::StatusOr<PathType> type = TypeOf(path);
    if (!type.ok()) return type.status();
    auto impl = std::make_unique<Impl>();
    impl->path = path;
    impl->sigbus = options.sigbus;
    const SurviveMediaErrors survive;
    impl->huge_pages = options.huge_pages;
    const bool directory = *type == PathType::kDirectory ||
                           (*type == PathType::kMissing && options.shape == PoolShape::kDirectory);
    if (*type == PathType::kOther) {
      return absl::FailedPreconditionError(
          absl::StrCat(path, " is neither a directory, a file nor a DAX device"));
    }
    impl->shape = directory ? PoolShape::kDirectory : PoolShape::kFixed;
    status = directory ? impl->OpenDirectory(options) : impl->OpenFixed(options, *type);
    if (status.ok()) status = impl->Start();
    if (!status.ok()) return status;
    std::unique_ptr<Pool> pool(new Pool(std::move(impl)));
    if (options.durability == Durability::kProcess) {
      status = pool->SetDurability(options.durability);
    }
    if (!status.ok()) return status;
    return pool;
  });
}

absl::Status Pool::Impl::OpenDirectory(const PoolOptions& options) {
  using Content = StoreDirectory::Content;
  directory = std::make_unique<StoreDirectory>(path);
  absl::StatusOr<Content> content = directory->Examine();
  if (!content.ok()) return content.status();
  const bool vacant = *content == Content::kMissing || *content == Content::kEmpty;
  if (vacant && !options.create_if_missing) return NotFound(path);
  if (*content == Content::kMissing) {
    absl::Status made = directory->MakeDirectory();
    if (!made.ok()) return made;
  }
  if (*content == Content::kSomething) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, " is a directory with other files and no daxkv.set: it is not a pool, and none is ",
        "made there; name an empty or a new directory"));
  }
  absl::StatusOr<std::unique_ptr<LockFile>> locked =
      LockFile::Acquire(directory->lock_path(), path);
  if (!locked.ok()) return locked.status();
  lock = *std::move(locked);
  // Somebody may have made the pool before we got the lock.
  content = directory->Examine();
  if (!content.ok()) return content.status();
  if (*content != Content::kPool) return CreateDirectory(options);
  if (options.error_if_exists) return AlreadyThere(path);

  const absl::StatusOr<std::string> set_path = directory->PrepareToOpen();
  if (!set_path.ok()) return set_path.status();
  absl::Status checked = ObjectHeap::CheckFirstFile(directory->first_part_path());
  if (absl::IsNotFound(checked)) {
    return absl::DataLossError(absl::StrCat(directory->first_part_path(), " is missing"));
  }
  if (!checked.ok()) return checked;
  absl::Status parts = OpenParts();
  if (!parts.ok()) return parts;
  absl::StatusOr<std::unique_ptr<ObjectHeap>> opened =
      ObjectHeap::Open(*set_path, {sigbus, directory->max_size_bytes()});
  if (!opened.ok()) return opened.status();
  heap = *std::move(opened);
  return SetUp();
}

// A process that dies in a step of growth may leave a part that libpmemobj has not taken. It would
// map that and keep its heap's length: where the two differ by a zone, it computes the last zone's
// size wrongly, and dies of that; else the part is lost for good.
absl::Status Pool::Impl::OpenParts() {
  absl::StatusOr<std::unique_ptr<BackingFiles>> opened =
      BackingFiles::OpenParts(directory->parts_path());
  if (!opened.ok()) return opened.status();
  files = *std::move(opened);
  const std::optional<uint64_t> end = ObjectChunks::FindEnd(
      files->size_bytes(), [this](uint64_t offset, void* to, uint64_t size_bytes) {
        return files->Read(offset, to, size_bytes);
      });
  return end.has_value() ? files->RemovePartsFrom(*end) : absl::OkStatus();
}

absl::Status Pool::Impl::CreateDirectory(const PoolOptions& options) {
  created = true;
  const absl::StatusOr<std::string> set_path = directory->BeginCreation(options.max_size_bytes);
  if (!set_path.ok()) return set_path.status();
  absl::StatusOr<std::unique_ptr<ObjectHeap>> made =
      ObjectHeap::Create(*set_path, 0, {sigbus, directory->max_size_bytes()});
  absl::Status status = made.status();
  if (status.ok()) {
    heap = *std::move(made);
    status = SetUp();
  }
  // The commit point of the creation.
  if (status.ok()) status = directory->CommitCreation();
  if (status.ok()) return status;
  const std::unique_ptr<LockFile> kept_lock = std::move(lock);
  const std::unique_ptr<StoreDirectory> kept_directory = std::move(directory);
  Shut();
  kept_directory->AbandonCreation().IgnoreError();
  return status;
}

// Beside a fixed file lies its lock, PATH.lock. A device has none: libpmemobj locks it itself.
absl::Status Pool::Impl::OpenFixed(const PoolOptions& options, PathType type) {
  if (type == PathType::kMissing && !options.create_if_missing) return NotFound(path);
  if (type == PathType::kFile) {
    // Before the lock, which would leave a file beside one that is not ours.
    if (absl::Status status = ObjectHeap::CheckFirstFile(path); !status.ok()) return status;
  }
  if (type != PathType::kDevice) {
    absl::StatusOr<std::unique_ptr<LockFile>> locked = LockFile::Acquire(path + ".lock", path);
    if (!locked.ok()) return locked.status();
    lock = *std::move(locked);
    const absl::StatusOr<PathType> now = TypeOf(path);
    if (!now.ok()) return now.status();
    if (*now == PathType::kMissing) return CreateFixed(options, *now);
  }
  const absl::StatusOr<uint64_t> size_bytes = BackingFiles::SizeOf(path);
  if (!size_bytes.ok()) return size_bytes.status();
  absl::StatusOr<std::unique_ptr<ObjectHeap>> opened =
      ObjectHeap::Open(path, {sigbus, *size_bytes});
  if (!opened.ok() && type == PathType::kDevice && options.create_if_missing) {
    // libpmemobj makes a pool only on a device whose first bytes are zero.
    const absl::Status status = CreateFixed(options, type);
    return status.ok() ? status : opened.status();
  }
  if (!opened.ok()) return opened.status();
  if (options.error_if_exists) return AlreadyThere(path);
  heap = *std::move(opened);
  return SetUp();
}

absl::Status Pool::Impl::CreateFixed(const PoolOptions& options, PathType type) {
  created = true;
  const bool device = type == PathType::kDevice;
  if (!device && options.fixed_size_bytes < kLeastFixedSizeBytes) {
    return absl::InvalidArgumentError(absl::StrCat("fixed_size_bytes must be at least ",
                                                   kLeastFixedSizeBytes, ", not ",
                                                   options.fixed_size_bytes));
  }
  const std::string making = device ? path : path + ".creating";
  if (!device && unlink(making.c_str()) != 0 && errno != ENOENT) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot remove ", making));
  }
  const uint64_t file_bytes = options.fixed_size_bytes & ~(kPageSizeBytes - 1);
  const absl::StatusOr<uint64_t> reach_bytes = device ? BackingFiles::SizeOf(path) : file_bytes;
  if (!reach_bytes.ok()) return reach_bytes.status();
  absl::StatusOr<std::unique_ptr<ObjectHeap>> made =
      ObjectHeap::Create(making, device ? 0 : file_bytes, {sigbus, *reach_bytes});
  absl::Status status = made.status();
  if (status.ok()) {
    heap = *std::move(made);
    // The commit point: a crash before it leaves a file that the next attempt removes.
    if (!device && rename(making.c_str(), path.c_str()) != 0) {
      status = absl::ErrnoToStatus(errno, absl::StrCat("cannot rename ", making, " to ", path));
    }
  }
  if (status.ok()) status = SetUp();
  if (!status.ok() && !device) unlink(making.c_str());
  return status;
}

// From an open heap to attached segments; nothing persistent changes but in a new pool.
absl::Status Pool::Impl::SetUp() {
  const bool is_directory = shape == PoolShape::kDirectory;
  if (files == nullptr) {
    absl::StatusOr<std::unique_ptr<BackingFiles>> opened =
        is_directory ? BackingFiles::OpenParts(directory->parts_path())
                     : BackingFiles::OpenFile(path);
    if (!opened.ok()) return opened.status();
    files = *std::move(opened);
  }
  absl::Status status = files->VerifyMapping(
      heap->base(), [this](uint64_t page) { return heap->lost_pages().IsReplaced(page); });
  if (!status.ok()) return status;
  const absl::StatusOr<MediaInfo> probed = ProbeMedia(files->first_path());
  if (!probed.ok()) return probed.status();
  media = *probed;
  persister = std::make_unique<Persister>(media.media_class, heap->base(), &heap->lost_pages());
  bad_pages = std::make_unique<BadPages>(heap->root(), persister.get());
  space = std::make_unique<PageSpace>(
      PageSpace::Parts{heap.get(), files.get(), persister.get(), bad_pages.get(), huge_pages,
                       /*write_ahead=*/media.media_class != MediaClass::kPageCache,
                       /*huge_ahead=*/media.media_class == MediaClass::kVolatile},
      is_directory ? directory->max_size_bytes() : 0);
  persister->SetDataPages(
      [this](uint64_t page) { return space->Contains(page << kPageShift, kPageSizeBytes); });
  status = bad_pages->Load();
  if (!status.ok()) return status;
  const std::optional<uint64_t> last_epoch = Pool::UnsealEpoch(heap->root()->open_epoch);
  if (!last_epoch) {
    const char* word = reinterpret_cast<const char*>(&heap->root()->open_epoch);
    return absl::DataLossError(absl::StrCat(path, ": the open epoch at pool offset ",
                                            word - heap->base(),
                                            " is damaged; restore the pool from a copy"));
  }
  was_clean = heap->root()->clean == heap->root()->open_epoch;
  last_clean_epoch = Pool::UnsealEpoch(heap->root()->clean);
  open_epoch = *last_epoch + 1;
  status = space->Attach(open_epoch, was_clean);
  if (status.ok() && created) status = space->TakeWholeHeap();
  return status;
}

// The last step of an open. One word commits it: from then on the pool is not clean.
absl::Status Pool::Impl::Start() {
  if (heap->lost_pages().any()) {
    return absl::DataLossError(absl::StrCat(
        path, ": the medium failed under the pool's own records; restore the pool from a copy"));
  }
  heap->StoreDurably(heap->root()->open_epoch, Pool::SealEpoch(open_epoch));
  // Descriptor words hold the low bits of an epoch only: before one comes round again, which takes
  // 2^18 opens, no word of it may be left.
  if ((open_epoch & kEpochMask) != 0) return absl::OkStatus();
  return space->ForgetOldEpochs();
}

void Pool::Impl::Shut() {
  space.reset();
  bad_pages.reset();
  persister.reset();
  files.reset();
  heap.reset();
  directory.reset();
  lock.reset();
}

Pool::Pool(std::unique_ptr<Impl> impl)
    : base_(impl->heap->base()), lost_pages_(&impl->heap->lost_pages()), impl_(std::move(impl)) {}

Pool::~Pool() { internal::FrameTable::ForgetPool(this); }

uint64_t Pool::SealEpoch(uint64_t epoch) {
  const auto low = static_cast<uint32_t>(epoch);
  return low | uint64_t{~Checksum(&low, sizeof(low))} << 32;
}

std::optional<uint64_t> Pool::UnsealEpoch(uint64_t word) {
  const uint64_t epoch = word & UINT32_MAX;
  if (SealEpoch(epoch) != word) return std::nullopt;
  return epoch;
}

absl::Status Pool::Close() {
  return WithoutExceptions([&]() -> absl::Status {
    if (impl_->heap == nullptr) return absl::FailedPreconditionError("the pool is closed already");
    const SurviveMediaErrors survive;
    SettleMediaErrors().IgnoreError();  // What matters of it, Sync says again.
    // Spare blocks that can't be punched do no harm, and a damaged segment gives none.
    impl_->space->TrimKnown().IgnoreError();
    absl::Status status = Sync();
    // The commit point: everything before it is durable.
    if (status.ok()) {
      impl_->heap->StoreDurably(impl_->heap->root()->clean, SealEpoch(impl_->open_epoch));
    }
    impl_->Shut();
    base_ = nullptr;
    lost_pages_ = nullptr;
    return status;
  });
}

const std::string& Pool::path() const { return impl_->path; }
PoolShape Pool::shape() const { return impl_->shape; }
const MediaInfo& Pool::media() const { return impl_->media; }
uint32_t Pool::format_version() const { return impl_->heap->root()->format_version; }
uint64_t Pool::open_epoch() const { return impl_->open_epoch; }
bool Pool::was_clean() const { return impl_->was_clean; }
std::optional<uint64_t> Pool::last_clean_epoch() const { return impl_->last_clean_epoch; }
char* Pool::root_area() const { return impl_->heap->root()->root_area; }

bool Pool::Contains(uint64_t offset, uint64_t size_bytes) const {
  return impl_->space->Contains(offset, size_bytes);
}

absl::StatusOr<Run> Pool::AllocateRun(uint64_t pages, uint8_t kind, uint16_t owner,
                                      uint64_t used_bytes) {
  const SurviveMediaErrors survive;
  return WithoutExceptions(
      [&] { return impl_->space->AllocateRun(pages, kind, owner, used_bytes); });
}

absl::Status Pool::CommitRuns(absl::Span<const Run> runs) {
  const SurviveMediaErrors survive;
  return WithoutExceptions([&] { return impl_->space->CommitRuns(runs); });
}
absl::Status Pool::ReleaseRuns(absl::Span<const Run> runs) {
  const SurviveMediaErrors survive;
  return WithoutExceptions([&] { return impl_->space->ReleaseRuns(runs); });
}
absl::StatusOr<Run> Pool::FindRun(uint64_t page) const {
  const SurviveMediaErrors survive;
  return WithoutExceptions([&] { return impl_->space->FindRun(page); });
}

absl::Status Pool::ForEachRun(const std::function<absl::Status(const Run&)>& visit) const {
  const SurviveMediaErrors survive;
  return WithoutExceptions([&] { return impl_->space->ForEachRun(visit); });
}

void Pool::Flush(const void* address, size_t size_bytes) noexcept {
  const SurviveMediaErrors survive;
  impl_->persister->Flush(address, size_bytes);
}

absl::Status Pool::Drain() noexcept { return impl_->persister->Drain(); }

absl::Status Pool::DropFlushes() noexcept { return impl_->persister->DropFlushes(); }

void Pool::CopyAndFlush(void* to, const void* from, size_t size_bytes) noexcept {
  const SurviveMediaErrors survive;
  impl_->persister->CopyAndFlush(to, from, size_bytes);
}

absl::Status Pool::Sync() {
  return WithoutExceptions([&] { return impl_->persister->SyncAll(impl_->files->size_bytes()); });
}

absl::Status Pool::SetDurability(Durability durability) {
  if (media().media_class != MediaClass::kPageCache) return absl::OkStatus();
  // In this order no store is under neither promise: first the strict one, then what was stored
  // before, then the other.
  const uint64_t most_bytes =
      std::max(impl_->directory == nullptr ? 0 : impl_->directory->max_size_bytes(),
               impl_->files->size_bytes());
  impl_->persister->SetDurability(Durability::kPower, most_bytes);
  absl::Status synced = Sync();
  if (!synced.ok()) return synced;
  impl_->persister->SetDurability(durability, most_bytes);
  impl_->media.durability = durability;
  return absl::OkStatus();
}

absl::Status Pool::SyncIfNeeded() {
  if (!impl_->persister->TakeUnsynced()) return absl::OkStatus();
  return WithoutExceptions(
      [&] { return impl_->persister->SyncInParts(impl_->files->size_bytes()); });
}

absl::Status Pool::PersistWord(const uint64_t* word) {
  return WithoutExceptions([&] { return impl_->persister->PersistWord(word); });
}

absl::Status Pool::ReportLostPage(uint64_t page) {
  return WithoutExceptions([&]() -> absl::Status {
    if (page >= kMaxSegments * kMaxRunPages * 2 || !Contains(page << kPageShift, kPageSizeBytes)) {
      return absl::InvalidArgumentError(
          absl::StrCat("page ", page, " of ", path(), " is no page that runs are made of"));
    }
    if (!impl_->heap->lost_pages().Report(page)) {
      return absl::ResourceExhaustedError(absl::StrCat("more than ", LostPages::kCapacity,
                                                       " pages were lost since ", path(),
                                                       " was opened; open it anew"));
    }
    return SettleMediaErrors();
  });
}

// For each page, in this order: on the list, so that no fault that begins now installs it; out of
// the entries that are there; out of the allocator. A crash before the list's 8-byte store is
// durable: the page is met, and lost, again; after it: no open maps it before its run is released.
absl::Status Pool::SettleMediaErrors() {
  if (media_settled()) return absl::OkStatus();
  return WithoutExceptions([&]() -> absl::Status {
    const SurviveMediaErrors survive;
    const std::lock_guard<std::mutex> lock(impl_->settle_mutex);
    LostPages& lost = impl_->heap->lost_pages();
    const uint64_t events = lost.events();
    absl::Status status;
    lost.ForEach([&](uint64_t page) {
      if (!Contains(page << kPageShift, kPageSizeBytes)) {
        status.Update(absl::DataLossError(absl::StrCat(
            "the medium failed under the records of ", path(), " itself, at pool offset ",
            page << kPageShift, "; save what can be read and restore from a copy")));
        return;
      }
      status.Update(impl_->bad_pages->Add(page));
      internal::MappingImpl::PoisonFrame(this, page);
      impl_->space->Quarantine(page);
    });
    lost.SetSettled(events);
    return status;
  });
}

bool Pool::IsLost(uint64_t offset, uint64_t size_bytes) const {
  const uint64_t first = offset >> kPageShift;
  const uint64_t end = (offset + size_bytes + kPageSizeBytes - 1) >> kPageShift;
  if (impl_->bad_pages->Overlaps(first, end)) return true;
  return !media_settled() && end > first && lost_pages_->Overlaps(first, end - 1);
}

bool Pool::HasLostPages() const { return impl_->bad_pages->any() || !media_settled(); }

std::vector<uint64_t> Pool::ListLostPages() const { return impl_->bad_pages->In(0, UINT64_MAX); }

MediaGuard::MediaGuard(const Pool& pool) : pool_(pool), events_(pool.media_events()) {}

bool MediaGuard::Intact() const { return pool_.media_events() == events_; }

void Pool::ReserveAhead() {
  const SurviveMediaErrors survive;
  // Without memory it is for whoever allocates.
  WithoutExceptions([&] {
    impl_->space->ReserveAhead();
    return absl::OkStatus();
  }).IgnoreError();
}

bool Pool::WantsReserveAhead() const { return impl_->space->WantsAhead(); }

absl::Status Pool::TrimSpare() {
  const SurviveMediaErrors survive;
  return WithoutExceptions([&] { return impl_->space->TrimSpare(); });
}

absl::StatusOr<uint64_t> Pool::ForEachRunBelow(
    uint64_t end_page, const std::function<absl::Status(const Run&)>& visit) const {
  const SurviveMediaErrors survive;
  return WithoutExceptions([&] { return impl_->space->ForEachRunBelow(end_page, visit); });
}

bool Pool::FindMoreFreePages() {
  const SurviveMediaErrors survive;
  bool found = false;
  // Without memory it is for whoever allocates.
  WithoutExceptions([&] {
    found = impl_->space->FindMoreFreePages();
    return absl::OkStatus();
  }).IgnoreError();
  return found;
}

uint64_t Pool::descriptors_read() const { return impl_->space->descriptors_read(); }

uint64_t Pool::runs_allocated() const { return impl_->space->runs_allocated(); }

absl::StatusOr<uint64_t> Pool::Trim() {
  return WithoutExceptions([&]() -> absl::StatusOr<uint64_t> {
    const SurviveMediaErrors survive;
    const absl::StatusOr<uint64_t> before = impl_->files->BlocksBytes();
    if (!before.ok()) return before.status();
    const absl::Status status = impl_->space->Trim();
    if (!status.ok()) return status;
    const absl::StatusOr<uint64_t> after = impl_->files->BlocksBytes();
    if (!after.ok()) return after.status();
    return *before > *after ? *before - *after : 0;
  });
}

absl::StatusOr<PoolStats> Pool::Stats() const {
  return WithoutExceptions([&]() -> absl::StatusOr<PoolStats> {
    const SurviveMediaErrors survive;
    PoolStats stats;
    const absl::Status status = impl_->space->AddStats(stats);
    if (!status.ok()) return status;
    const absl::StatusOr<FileSizes> files = SizesOfFiles();
    if (!files.ok()) return files.status();
    stats.file_size_bytes = files->size_bytes;
    stats.file_blocks_bytes = files->blocks_bytes;
    stats.has_holes = impl_->files->HasHoles();
    return stats;
  });
}

absl::StatusOr<Pool::FileSizes> Pool::SizesOfFiles() const {
  return WithoutExceptions([&]() -> absl::StatusOr<FileSizes> {
    const absl::StatusOr<uint64_t> blocks_bytes = impl_->files->BlocksBytes();
    if (!blocks_bytes.ok()) return blocks_bytes.status();
    return FileSizes{impl_->files->size_bytes(), *blocks_bytes};
  });
}

}  // namespace daxkv::dax
