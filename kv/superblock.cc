#include "kv/superblock.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "kv/record.h"

namespace daxkv::kv {
namespace {

static_assert(kSessionOffset + sizeof(uint64_t) <= dax::Pool::kRootAreaSizeBytes);

// A creation allocates a run or two; even when crashes cut several creations short, the runs stay
// this few, because the next one finds them free.
constexpr uint64_t kMaxRunsOfCreation = 16;

uint32_t ChecksumOf(const Superblock& superblock) {
  return Crc32c(0, &superblock, offsetof(Superblock, checksum));
}

// A blank superblock above many runs is a damaged one: to create a store there would give all the
// old one's extents away.
absl::Status CheckBlank(const dax::Pool& pool) {
  uint64_t runs = 0;
  return pool.ForEachRun([&](const dax::Run& run) -> absl::Status {
    if (++runs <= kMaxRunsOfCreation) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat(
        pool.path(), ": the superblock is blank, but the pool holds runs of data (one at offset ",
        run.offset(), "); restore the pool from a copy"));
  });
}

}  // namespace

Superblock* SuperblockOf(const dax::Pool& pool) {
  return reinterpret_cast<Superblock*>(pool.root_area());
}

uint64_t MapsValidSince(const dax::Pool& pool) {
  return dax::Pool::UnsealEpoch(SuperblockOf(pool)->maps_valid_since).value_or(UINT32_MAX);
}

absl::StatusOr<bool> HasStore(const dax::Pool& pool) {
  const Superblock& superblock = *SuperblockOf(pool);
  if (superblock.magic == 0) {
    absl::Status blank = CheckBlank(pool);
    if (!blank.ok()) return blank;
    return false;
  }
  if (superblock.magic != kSuperblockMagic) {
    return absl::FailedPreconditionError(absl::StrCat(
        pool.path(), ": the pool's root area holds something else than a daxkv store (magic ",
        absl::Hex(superblock.magic, absl::kZeroPad16), "); open another path"));
  }
  if (superblock.checksum != ChecksumOf(superblock)) {
    return absl::DataLossError(absl::StrCat(
        pool.path(), ": the superblock's checksum is wrong; restore the pool from a copy"));
  }
  if (superblock.format_version != kFormatVersion) {
    const bool older = superblock.format_version < kFormatVersion;
    return absl::FailedPreconditionError(
        absl::StrCat(pool.path(), ": the store has format version ", superblock.format_version,
                     ", this program knows version ", kFormatVersion,
                     older ? "; dump it with the daxkv that wrote it and load the dump"
                           : "; use a newer daxkv"));
  }
  return true;
}

absl::Status CommitSuperblock(dax::Pool& pool) {
  Superblock* superblock = SuperblockOf(pool);
  Superblock complete = {};
  complete.magic = kSuperblockMagic;
  complete.format_version = kFormatVersion;
  superblock->format_version = complete.format_version;
  superblock->checksum = ChecksumOf(complete);
  superblock->durability = superblock->keyspaces = 0;
  superblock->horizon = 0;
  superblock->horizon_complement = ~uint64_t{0};
  absl::Status persisted = pool.Persist(superblock, sizeof(*superblock));
  if (!persisted.ok()) return persisted;
  // Commits the store's creation.
  __atomic_store_n(&superblock->magic, kSuperblockMagic, __ATOMIC_RELEASE);
  return pool.Persist(&superblock->magic, sizeof(superblock->magic));
}

uint64_t* SessionWordOf(const dax::Pool& pool) {
  return reinterpret_cast<uint64_t*>(pool.root_area() + kSessionOffset);
}

// One 8-byte store. A crash before it: nothing was changed.
absl::Status BeginSession(dax::Pool& pool) {
  uint64_t* const word = SessionWordOf(pool);
  __atomic_store_n(word, dax::Pool::SealEpoch(pool.open_epoch()), __ATOMIC_RELEASE);
  return pool.PersistWord(word);
}

bool WasOpenSinceCleanClose(const dax::Pool& pool) {
  if (pool.was_clean()) return false;
  const std::optional<uint64_t> session = dax::Pool::UnsealEpoch(*SessionWordOf(pool));
  const std::optional<uint64_t> clean = pool.last_clean_epoch();
  return !session.has_value() || !clean.has_value() || *session > *clean;
}

}  // namespace daxkv::kv
