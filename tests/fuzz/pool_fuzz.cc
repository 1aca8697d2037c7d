// Opening and using damaged pools. The input damages a small store, structure by structure:
//   byte 0       bit 0: the store was closed cleanly
//   then 8 bytes for each change, at most kMaxChanges:
//     region, action (bit 7: seal the structure's checksum again), structure (2), offset (2),
//     operand (2)
// A checksum that is sealed again lets lies through to what is behind it. No value is ever wrong,
// unless a record itself was sealed again; nothing crashes or hangs.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "kv/db.h"
#include "kv/format.h"
#include "kv/record.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/kv/damaged_store.h"

namespace daxkv::fuzz {
namespace {

namespace fs = std::filesystem;
using kv::Region;
using kv::StoreImage;

constexpr int kMaxChanges = 16;
constexpr int kKeys = 260;
constexpr int kScanLimit = 4000;

std::string KeyOf(int i) {
  std::string key = "key" + std::to_string(1000 + i * 37 % 1000);
  if (i % 50 == 0) key.append(300, 'k');
  return key;
}

std::string ValueOf(int i) {
  const size_t size_bytes = i % 90 == 7 ? 50'000 : static_cast<size_t>(i * 13 % 150);
  return std::string(size_bytes, static_cast<char>('a' + i % 26));
}

bool IsDeleted(int i) { return i % 9 == 4; }

std::string Scratch() { return "/dev/shm/daxkv_pool_fuzz_" + std::to_string(getpid()); }

kv::Options StoreOptions() {
  kv::Options options;
  options.max_size_bytes = 64 << 20;
  options.compaction_bytes_per_second = 0;
  return options;
}

void Fill(const std::string& path, bool clean) {
  absl::StatusOr<std::unique_ptr<kv::Db>> db = kv::Db::Open(path, StoreOptions());
  Require(db.ok(), "making the store");
  for (int i = 0; i < kKeys; ++i) Require((*db)->Put(KeyOf(i), ValueOf(i)).ok(), "filling");
  for (int i = 0; i < kKeys; ++i) {
    if (IsDeleted(i)) Require((*db)->Delete(KeyOf(i)).ok(), "deleting");
  }
  if (clean) Require((*db)->Close().ok(), "closing");
}

StoreImage MakeImage(bool clean) {
  const std::string path = Scratch() + ".made";
  fs::remove_all(path);
  Fill(path, clean);
  StoreImage image = StoreImage::Read(path);
  image.Survey();
  fs::remove_all(path);
  return image;
}

const StoreImage& Image(bool clean) {
  static const StoreImage images[2] = {MakeImage(false), MakeImage(true)};
  return images[clean ? 1 : 0];
}

class Damage {
 public:
  explicit Damage(StoreImage* image) : image_(*image) {}

  void Apply(Input input) {
    for (int i = 0; i < kMaxChanges && !input.empty(); ++i) Change(&input);
  }
  // Whether a record's bytes were changed and declared right.
  bool forged_record() const { return forged_record_; }

 private:
  void Change(Input* input) {
    const Region region = kv::kOurRegions[input->Take<uint8_t>() % std::size(kv::kOurRegions)];
    const uint8_t action = input->Take<uint8_t>();
    const uint16_t structure = input->Take<uint16_t>(), offset = input->Take<uint16_t>(),
                   operand = input->Take<uint16_t>();
    const std::vector<StoreImage::Range>& ranges = image_.RangesOf(region);
    if (ranges.empty()) return;
    const StoreImage::Range& range = ranges[structure % ranges.size()];
    const uint64_t at = range.offset + offset % range.size_bytes;
    const StoreImage::Range& other = ranges[operand % ranges.size()];
    Store(action % 10, at, operand, other.offset + offset % other.size_bytes);
    if ((action & 0x80) != 0) Seal(region, range.offset);
  }

  void Store(int action, uint64_t at, uint16_t operand, uint64_t other) {
    static constexpr uint64_t kWords[] = {
        0,    ~uint64_t{0}, uint64_t{1} << 47, (uint64_t{1} << 48) - 8, uint64_t{1} << 63,
        4096, 8 << 20,      64 << 20,          uint64_t{1} << 32};
    const uint64_t word_at = at / 8 * 8, line_at = at / 64 * 64;
    const auto set_word = [&](uint64_t word) { memcpy(image_.Bytes(word_at), &word, 8); };
    switch (action) {
      case 0:
        return image_.SetByte(at, static_cast<char>(operand));
      case 1:
        return image_.SetByte(at, static_cast<char>(*image_.Bytes(at) ^ 1 << operand % 8));
      case 2:
        return set_word(operand);
      case 3:
        return set_word(image_.Word(word_at) +
                        static_cast<uint64_t>(static_cast<int16_t>(operand)));
      case 4:
        return set_word(image_.Word(other / 8 * 8));
      case 5:
        memset(image_.Bytes(line_at), operand & 0xff, 64);
        return;
      case 6:
        return set_word(kWords[operand % std::size(kWords)]);
      case 7:
        return set_word((image_.Word(word_at) & ~uint64_t{0xffff}) | operand);
      case 8:
        return set_word(word_at);
      default:
        std::swap_ranges(image_.Bytes(line_at), image_.Bytes(line_at) + 64,
                         image_.Bytes(other / 64 * 64));
    }
  }

  // A CRC32C of the first `span` bytes right behind them.
  void SealHeader(uint64_t begin, size_t span) {
    const uint32_t checksum = kv::Crc32c(0, image_.Bytes(begin), span);
    memcpy(image_.Bytes(begin + span), &checksum, sizeof(checksum));
  }

  void Seal(Region region, uint64_t begin) {
    switch (region) {
      case Region::kPoolRoot:
      case Region::kSegmentHeader:
        return SealHeader(begin, 60);
      case Region::kSuperblock:
        return SealHeader(begin, offsetof(kv::Superblock, checksum));
      case Region::kExtentHeader:
        return SealHeader(begin, offsetof(kv::ExtentHeader, checksum));
      case Region::kLeafHeader:
      case Region::kInner:
        return SealHeader(begin, offsetof(kv::NodeHeader, checksum));
      case Region::kFence:
      case Region::kRecord:
      case Region::kLargeRecord:
        return SealRecord(begin);
      default:
        return;
    }
  }

  void SealRecord(uint64_t begin) {
    kv::RecordHeader header;
    memcpy(static_cast<void*>(&header), image_.Bytes(begin), sizeof(header));
    const uint64_t body = header.key_size_bytes() + header.value_size_bytes;
    if (body > image_.size_bytes() - begin - sizeof(header)) return;
    uint32_t checksum = kv::Crc32c(0, image_.Bytes(begin + sizeof(header)), body);
    checksum = kv::Crc32c(checksum, image_.Bytes(begin + 4), sizeof(header) - 4);
    checksum = kv::Crc32c(checksum, &begin, sizeof(begin));
    memcpy(image_.Bytes(begin), &checksum, sizeof(checksum));
    forged_record_ = true;
  }

  StoreImage& image_;
  bool forged_record_ = false;
};

// Uses the store in every way.
class Judge {
 public:
  Judge(kv::Db* db, bool forged) : db_(*db), forged_(forged) {
    for (int i = 0; i < kKeys; ++i) {
      if (!IsDeleted(i)) values_[KeyOf(i)] = ValueOf(i);
    }
  }

  void Run() {
    GetAll();
    Scan(/*backwards=*/false);
    Scan(/*backwards=*/true);
    Allow(db_.GetInfo(true).status());
    Allow(db_.ApproximateRange("key1", "key9").status());
    BackUp();
    Allow(db_.Check().status());
    Write();
    Allow(db_.Compact().status());
    GetAll();
    Allow(db_.Check().status());
  }

 private:
  void Allow(const absl::Status& status) {
    if (status.ok() || absl::IsNotFound(status) || absl::IsDataLoss(status)) return;
    // Damaged structures may leave no room, or keep a media promise from being kept.
    if (absl::IsResourceExhausted(status) || absl::IsInternal(status)) return;
    Require(false, "a wrong status: " + status.ToString());
  }

  void Saw(std::string_view key, std::string_view value) {
    if (forged_) return;
    const auto known = values_.find(std::string(key));
    Require(known != values_.end(), "a key that is not there");
    Require(value == known->second, "a wrong value");
  }

  void GetAll() {
    for (int i = 0; i < kKeys; ++i) {
      const std::string key = KeyOf(i);
      const absl::StatusOr<std::string> value = db_.Get(key);
      value.ok() ? Saw(key, *value) : Allow(value.status());
      if (i % 20 != 0) continue;
      absl::StatusOr<kv::PinnedValue> pinned = db_.Pin(key);
      pinned.ok() ? Saw(key, pinned->value()) : Allow(pinned.status());
    }
  }

  void Scan(bool backwards) {
    const std::unique_ptr<kv::Iterator> it = db_.NewIterator();
    backwards ? it->SeekToLast() : it->SeekToFirst();
    std::string last;
    for (int n = 0; it->Valid(); ++n) {
      Require(n < kScanLimit, "a scan without an end");
      if (!forged_) Saw(it->key(), it->value());
      Require(n == 0 || (backwards ? it->key() < last : it->key() > last), "keys out of order");
      last = it->key();
      backwards ? it->Prev() : it->Next();
    }
    Allow(it->status());
  }

  void BackUp() {
    class Discard : public kv::ByteSink {
      absl::Status Append(std::string_view) override { return absl::OkStatus(); }
    } sink;
    Allow(db_.Backup(&sink).status());
  }

  void Put(const std::string& key, const std::string& value) {
    const absl::Status status = db_.Put(key, value);
    Allow(status);
    if (status.ok()) values_[key] = value;
  }

  void Write() {
    for (int i = 0; i < kKeys + 60; i += 5) Put(KeyOf(i), std::string(i * 3, 'n'));
    for (int i = 2; i < kKeys; i += 13) {
      const absl::Status status = db_.Delete(KeyOf(i));
      Allow(status);
      if (status.ok() || absl::IsNotFound(status)) values_.erase(KeyOf(i));
    }
    kv::WriteBatch batch;
    for (int i = 1; i < kKeys; i += 17) {
      Require(batch.Put(KeyOf(i), "batch").ok(), "batch");
    }
    const absl::Status written = db_.Write(batch);
    Allow(written);
    for (int i = 1; i < kKeys && written.ok(); i += 17) values_[KeyOf(i)] = "batch";
  }

  kv::Db& db_;
  const bool forged_;
  std::map<std::string, std::string> values_;
};

}  // namespace
}  // namespace daxkv::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size_bytes) {
  using namespace daxkv::fuzz;
  namespace kv = daxkv::kv;
  Input input(bytes, size_bytes);
  kv::StoreImage image = Image((input.Take<uint8_t>() & 1) != 0);
  Damage damage(&image);
  damage.Apply(input);
  const std::string path = Scratch();
  fs::remove_all(path);
  image.Write(path);
  absl::StatusOr<std::unique_ptr<kv::Db>> db = kv::Db::Open(path, StoreOptions());
  if (db.ok()) {
    Judge(db->get(), damage.forged_record()).Run();
    (*db)->Close().IgnoreError();
  } else {
    const absl::StatusCode code = db.status().code();
    Require(code == absl::StatusCode::kDataLoss || code == absl::StatusCode::kFailedPrecondition ||
                code == absl::StatusCode::kResourceExhausted || code == absl::StatusCode::kInternal,
            db.status().ToString());
  }
  db = absl::UnknownError("");  // The store is gone before its files.
  fs::remove_all(path);
  return 0;
}
