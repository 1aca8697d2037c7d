// A store as bytes in memory: copied out again and again, each time with other damage.
//
// It finds its way by what the format headers document, without the code that it is to test.
#ifndef DAXKV_TESTS_KV_DAMAGED_STORE_H_
#define DAXKV_TESTS_KV_DAMAGED_STORE_H_

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace daxkv::kv {

// What is damaged.
enum class Region {
  // daxkv's own.
  kPoolRoot,
  kSegmentTable,
  kSegmentHeader,
  kDescriptors,
  kSuperblock,
  kExtentHeader,
  kSavedMap,
  kLeafHeader,
  kLeafSlots,
  kInner,
  kFence,
  kRecord,
  kLargeRecord,
  kAnyPage,
  // Files.
  kSetFile,
  kPartFile,
  // libpmemobj's.
  kObjectHeader,
  kObjectLanes,
  kObjectHeap,
  kObjectChunks,
};
inline constexpr Region kOurRegions[] = {
    Region::kPoolRoot,    Region::kSegmentTable, Region::kSegmentHeader, Region::kDescriptors,
    Region::kSuperblock,  Region::kExtentHeader, Region::kSavedMap,      Region::kLeafHeader,
    Region::kLeafSlots,   Region::kInner,        Region::kFence,         Region::kRecord,
    Region::kLargeRecord, Region::kAnyPage,
};
inline constexpr Region kFileRegions[] = {Region::kSetFile, Region::kPartFile};
inline constexpr Region kObjectRegions[] = {Region::kObjectHeader, Region::kObjectLanes,
                                            Region::kObjectHeap, Region::kObjectChunks};
const char* RegionName(Region region);

class StoreImage {
 public:
  using Random = std::mt19937_64;
  struct Range {
    uint64_t offset, size_bytes;
  };

  // Reads a directory store that nobody has open.
  static StoreImage Read(const std::string& store);
  // Writes it to `store`, which must not exist. Blank pages become holes.
  void Write(const std::string& store) const;

  // Finds the regions. Call once, before copies are made and damaged.
  void Survey();
  bool Has(Region region) const;
  // The pool offset where the region, which must be there, begins.
  uint64_t Begin(Region region) const { return ranges_.at(region).front().offset; }
  // Every key in the index, with the pool offset of the leaf slot that holds it.
  const std::map<std::string, uint64_t>& leaf_slots() const { return leaf_slots_; }

  // Damages a random place of the region; returns a line that says what was done. `older`, if not
  // null, is an earlier state of the same store whose pages may be put back.
  std::string Damage(Region region, const StoreImage* older, Random& random);

  // Where the region's structures lie; none if the store has none.
  const std::vector<Range>& RangesOf(Region region) const {
    static const std::vector<Range> kNone;
    const auto found = ranges_.find(region);
    return found == ranges_.end() ? kNone : found->second;
  }
  // The 8-byte word at a pool offset.
  uint64_t Word(uint64_t offset) const;
  void SetByte(uint64_t offset, char byte) { bytes_.at(offset) = byte; }
  // Bytes of the pool, to be changed. The range must lie in it.
  char* Bytes(uint64_t offset) { return &bytes_.at(offset); }
  uint64_t size_bytes() const { return bytes_.size(); }

 private:
  template <typename T>
  T At(uint64_t offset) const;
  void SurveyPool();
  void SurveyObjectHeap();
  void SurveyExtents();
  void SurveySlab(uint64_t extent);
  void SurveyLeaf(uint64_t leaf);
  std::string DamageFiles(Region region, Random& random);
  std::string DamageBytes(Region region, const StoreImage* older, Random& random);
  void AddRange(Region region, uint64_t offset, uint64_t size_bytes);

  std::string set_file_;
  std::string bytes_;  // The pool: the parts one after the other.
  std::vector<uint64_t> part_size_bytes_;
  std::map<Region, std::vector<Range>> ranges_;
  std::map<std::string, uint64_t> leaf_slots_;
};

}  // namespace daxkv::kv

#endif  // DAXKV_TESTS_KV_DAMAGED_STORE_H_
