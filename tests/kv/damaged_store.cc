#include "tests/kv/damaged_store.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "dax/pool_format.h"
#include "kv/format.h"

namespace daxkv::kv {
namespace {

constexpr uint64_t kLine = 64;
constexpr uint64_t kPage = 4096;

// libpmemobj's layout, version 6: pool header, descriptor, lanes, heap.
constexpr uint64_t kLanesOffsetAt = kPage + 1024;
constexpr uint64_t kHeapOffsetAt = kPage + 1040;
constexpr uint64_t kZoneHeaderSizeBytes = 64;
constexpr uint64_t kChunkHeadersSizeBytes = 65528 * 8;
constexpr uint64_t kHeapHeaderSizeBytes = 1024;

[[noreturn]] void Fail(const std::string& what) {
  std::cerr << what << "\n";
  std::abort();
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) Fail("cannot read " + path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

std::string PartPath(const std::string& store, size_t number) {
  return absl::StrFormat("%s/parts/%06d.pmem", store, number);
}

bool IsBlank(std::string_view bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](char byte) { return byte == 0; });
}

}  // namespace

const char* RegionName(Region region) {
  constexpr const char* kNames[] = {
      "pool root",         "segment table",    "segment header",  "descriptors",
      "superblock",        "extent header",    "saved map",       "leaf header",
      "leaf slots",        "inner node",       "fence",           "record",
      "large record",      "any page",         "set file",        "part file",
      "libpmemobj header", "libpmemobj lanes", "libpmemobj heap", "libpmemobj chunks"};
  return kNames[static_cast<int>(region)];
}

template <typename T>
T StoreImage::At(uint64_t offset) const {
  T value;
  if (offset > bytes_.size() || sizeof(T) > bytes_.size() - offset) Fail("survey out of range");
  memcpy(static_cast<void*>(&value), bytes_.data() + offset, sizeof(T));
  return value;
}

uint64_t StoreImage::Word(uint64_t offset) const { return At<uint64_t>(offset); }

StoreImage StoreImage::Read(const std::string& store) {
  StoreImage image;
  image.set_file_ = ReadFile(store + "/daxkv.set");
  for (size_t i = 0; std::filesystem::exists(PartPath(store, i)); ++i) {
    const std::string part = ReadFile(PartPath(store, i));
    image.part_size_bytes_.push_back(part.size());
    image.bytes_ += part;
  }
  return image;
}

void StoreImage::Write(const std::string& store) const {
  std::filesystem::create_directories(store + "/parts");
  std::ofstream(store + "/daxkv.set", std::ios::binary) << set_file_;
  uint64_t at = 0;
  for (size_t i = 0; i < part_size_bytes_.size(); ++i) {
    const std::string path = PartPath(store, i);
    std::ofstream file(path, std::ios::binary);
    const uint64_t end = at + part_size_bytes_[i];
    for (uint64_t page = at; page < std::min<uint64_t>(end, bytes_.size()); page += kPage) {
      const std::string_view bytes =
          std::string_view(bytes_).substr(page, std::min(kPage, end - page));
      if (IsBlank(bytes)) continue;
      file.seekp(static_cast<std::streamoff>(page - at));
      file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    }
    file.close();
    std::filesystem::resize_file(path, part_size_bytes_[i]);
    at = end;
  }
}

// ---- Where what lies ---------------------------------------------------------------------------

void StoreImage::AddRange(Region region, uint64_t offset, uint64_t size_bytes) {
  ranges_[region].push_back({offset, size_bytes});
}

bool StoreImage::Has(Region region) const {
  return region == Region::kSetFile || region == Region::kPartFile || ranges_.count(region) != 0;
}

void StoreImage::Survey() {
  SurveyPool();
  SurveyObjectHeap();
  SurveyExtents();
  for (uint64_t page = 0; page + kPage <= bytes_.size(); page += kPage) {
    // libpmemobj's part has regions of its own.
    if (page < ranges_[Region::kPoolRoot].front().offset) continue;
    if (!IsBlank(std::string_view(bytes_).substr(page, kPage))) {
      AddRange(Region::kAnyPage, page, kPage);
    }
  }
}

void StoreImage::SurveyPool() {
  for (uint64_t at = 0; at < dax::kFirstBytes; at += kLine) {
    if (Word(at) != dax::kRootMagic) continue;
    AddRange(Region::kPoolRoot, at, 192);
    AddRange(Region::kSuperblock, at + 192, sizeof(Superblock));
    const uint64_t segments = Word(at + offsetof(dax::PoolRoot, segment_count));
    const uint64_t table = at + offsetof(dax::PoolRoot, segments);
    AddRange(Region::kSegmentTable, table, (segments + 1) * 16);
    for (uint64_t i = 0; i < segments; ++i) {
      const uint64_t header = (Word(table + i * 16) + 63) / 64 * 64;
      AddRange(Region::kSegmentHeader, header, sizeof(dax::SegmentHeader));
      const uint64_t pages = Word(header + offsetof(dax::SegmentHeader, pages));
      for (uint64_t line = 0; line < pages * 8; line += kLine) {
        const uint64_t words = header + sizeof(dax::SegmentHeader) + line;
        if (!IsBlank(std::string_view(bytes_).substr(words, kLine))) {
          AddRange(Region::kDescriptors, words, kLine);
        }
      }
    }
    return;
  }
  Fail("no pool root found");
}

void StoreImage::SurveyObjectHeap() {
  AddRange(Region::kObjectHeader, 0, 2 * kPage);
  const uint64_t lanes = Word(kLanesOffsetAt), heap = Word(kHeapOffsetAt);
  AddRange(Region::kObjectLanes, lanes, heap - lanes);
  AddRange(Region::kObjectHeap, heap, kHeapHeaderSizeBytes + kZoneHeaderSizeBytes);
  const uint64_t chunks = heap + kHeapHeaderSizeBytes + kZoneHeaderSizeBytes;
  for (uint64_t line = chunks; line < chunks + kChunkHeadersSizeBytes; line += kLine) {
    if (!IsBlank(std::string_view(bytes_).substr(line, kLine))) {
      AddRange(Region::kObjectChunks, line, kLine);
    }
  }
}

void StoreImage::SurveyExtents() {
  for (uint64_t at = 0; at + kPage <= bytes_.size(); at += kPage) {
    const auto header = At<ExtentHeader>(at);
    if (header.self != at) continue;
    if (header.magic == kLargeMagic) {
      AddRange(Region::kExtentHeader, at, 32);
      AddRange(Region::kLargeRecord, at + kLargeRecordOffset, header.slot_size_bytes);
    } else if (header.magic == kSlabMagic) {
      SurveySlab(at);
    }
  }
}

void StoreImage::SurveySlab(uint64_t extent) {
  const auto header = At<ExtentHeader>(extent);
  AddRange(Region::kExtentHeader, extent, 48);
  AddRange(Region::kSavedMap, extent + 32, 32 + (header.slot_count + 63) / 64 * 8);
  for (uint64_t i = 0; i < header.slot_count; ++i) {
    const uint64_t slot = extent + header.first_slot_offset + i * header.slot_size_bytes;
    const auto node = At<NodeHeader>(slot);
    if (node.magic == kLeafMagic && node.self == slot) {
      AddRange(Region::kLeafHeader, slot, sizeof(NodeHeader));
      AddRange(Region::kLeafSlots, slot + sizeof(NodeHeader), kLeafSlots * 8);
      SurveyLeaf(slot);
    } else if (node.magic == kInnerMagic && node.self == slot) {
      AddRange(Region::kInner, slot, kInnerSizeBytes / 4);  // What is in use, and a little more.
    } else if (const auto record = At<RecordHeader>(slot);
               (record.kind_and_flags & kRecordKindMask) == kFenceRecord) {
      AddRange(Region::kFence, slot, sizeof(RecordHeader) + record.key_size_bytes() + 8);
    }
  }
}

void StoreImage::SurveyLeaf(uint64_t leaf) {
  for (uint64_t i = 0; i < kLeafSlots; ++i) {
    const uint64_t place = leaf + sizeof(NodeHeader) + i * 8;
    const uint64_t record = Word(place) & kAddressMask;
    if (record == 0) continue;
    const auto header = At<RecordHeader>(record);
    leaf_slots_[bytes_.substr(record + sizeof(header), header.key_size_bytes())] = place;
    if (record % kPage != kLargeRecordOffset) {
      AddRange(Region::kRecord, record,
               sizeof(header) + header.key_size_bytes() + header.value_size_bytes);
    }
  }
}

// ---- Damage ------------------------------------------------------------------------------------

std::string StoreImage::Damage(Region region, const StoreImage* older, Random& random) {
  return absl::StrCat(RegionName(region), ": ",
                      region == Region::kSetFile || region == Region::kPartFile
                          ? DamageFiles(region, random)
                          : DamageBytes(region, older, random));
}

std::string StoreImage::DamageFiles(Region region, Random& random) {
  if (region == Region::kSetFile) {
    const size_t at = random() % set_file_.size();
    switch (random() % 4) {
      case 0:
        set_file_.resize(at);
        return absl::StrCat("cut to ", at, " bytes");
      case 1:
        set_file_ += set_file_;
        return "doubled";
      case 2:
        set_file_[at] = static_cast<char>(random());
        return absl::StrCat("another byte at ", at);
      default:
        set_file_[at] = static_cast<char>(set_file_[at] ^ (1 << random() % 8));
        return absl::StrCat("a bit at ", at);
    }
  }
  const size_t part = random() % part_size_bytes_.size();
  uint64_t& size_bytes = part_size_bytes_[part];
  const uint64_t old_size_bytes = size_bytes;
  uint64_t first = 0;
  for (size_t i = 0; i < part; ++i) first += part_size_bytes_[i];
  if (random() % 2 == 0) {
    size_bytes = random() % 8 == 0 ? random() % 8192 : random() % size_bytes;
    if (random() % 2 == 0) size_bytes &= ~(kPage - 1);
    bytes_.erase(first + size_bytes, old_size_bytes - size_bytes);
  } else {
    size_bytes += random() % 2 == 0 ? random() % 10000 : (random() % 8 + 1) << 20;
    bytes_.insert(first + old_size_bytes, size_bytes - old_size_bytes, '\0');
  }
  return absl::StrCat("part ", part, " of ", old_size_bytes, " bytes gets ", size_bytes);
}

std::string StoreImage::DamageBytes(Region region, const StoreImage* older, Random& random) {
  const std::vector<Range>& ranges = ranges_.at(region);
  const auto pick = [&] {
    const Range& range = ranges[random() % ranges.size()];
    return range.offset + random() % range.size_bytes;
  };
  const uint64_t at = pick();
  const bool whole_page = random() % 3 == 0;
  const uint64_t unit = whole_page ? kPage : kLine;
  const uint64_t begin = at / unit * unit;
  const char* const unit_name = whole_page ? "page" : "line";
  switch (random() % (older == nullptr ? 7 : 9)) {
    case 0: {
      const uint64_t size_bytes = std::min<uint64_t>(1 + random() % 64, bytes_.size() - at);
      for (uint64_t i = 0; i < size_bytes; ++i) bytes_[at + i] = static_cast<char>(random());
      return absl::StrCat(size_bytes, " random bytes at ", at);
    }
    case 1:
      std::fill_n(bytes_.begin() + static_cast<int64_t>(begin), unit, '\0');
      return absl::StrCat("blank ", unit_name, " at ", begin);
    case 2:
      std::fill_n(bytes_.begin() + static_cast<int64_t>(begin), unit, '\xff');
      return absl::StrCat("0xff ", unit_name, " at ", begin);
    case 3: {
      const uint64_t other = pick() / unit * unit;
      std::swap_ranges(&bytes_[begin], &bytes_[begin] + unit, &bytes_[other]);
      return absl::StrCat("swapped ", unit_name, "s at ", begin, " and ", other);
    }
    case 7:
    case 8:
      if (begin + unit > older->bytes_.size()) return "nothing: no older state there";
      bytes_.replace(begin, unit, older->bytes_, begin, unit);
      return absl::StrCat("older ", unit_name, " at ", begin);
    default:
      bytes_[at] = static_cast<char>(bytes_[at] ^ (1 << random() % 8));
      return absl::StrCat("a bit at ", at);
  }
}

}  // namespace daxkv::kv
