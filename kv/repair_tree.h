// What can be made out of an index that may be damaged anywhere: its leaves, in the order of their
// keys, and which of them can be believed. Internal to kv/.
//
// A leaf is believed if its header and its low fence hold, something intact leads to it, and it
// leads to the next leaf. Inner nodes only lead here: what they say is checked against the leaves.
//
// Not thread-safe.
#ifndef DAXKV_KV_REPAIR_TREE_H_
#define DAXKV_KV_REPAIR_TREE_H_

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/functional/function_ref.h"
#include "kv/node.h"
#include "kv/repair_survey.h"

namespace daxkv::kv {

// A slot of a leaf, and what it leads to.
struct OldSlot {
  unsigned place;
  uint64_t word;
  std::optional<RecordView> record;  // Intact, of a value, and with a key of the slot's tag.
  bool misplaced;                    // It lies where its tag can't have put it.
};

struct OldLeaf {
  Address address = kNullAddress;  // Null: a leaf that is lost altogether.
  std::string_view fence;          // Empty for the leftmost.
  bool header_intact = false;
  // Which keys it holds is not known for certain: a part of it is damaged, or its neighbourhood.
  bool doubtful = false;
  // So much that slots of it may be gone without a trace.
  bool slots_unknown = false;
  bool split_unfinished = false;
  // Its fence is lost: `fence` is its lowest key.
  bool fence_guessed = false;
};

class OldTree {
 public:
  using Report = absl::FunctionRef<void(std::string)>;

  explicit OldTree(Survey* survey) : survey_(*survey) {}

  // Finds the leaves from Superblock::root. `fault` gets a line for each thing that is wrong.
  void Read(uint64_t root, Report fault);

  // Without gaps: the first one's fence is empty; each reaches to the fence of the next.
  std::vector<OldLeaf>& leaves() { return leaves_; }
  // Which leaf covers a key.
  size_t LeafOf(std::string_view key) const;
  // Keys of leaf i are below this; nullopt: no end.
  std::optional<std::string_view> UpperOf(size_t i) const;
  // The slots of a leaf that are not empty.
  std::vector<OldSlot> SlotsOf(const OldLeaf& leaf) const;

 private:
  struct Walk;
  const LeafNode& LeafAt(Address address) const {
    return *reinterpret_cast<const LeafNode*>(survey_.pool().At(address));
  }
  // The low fence of an intact node.
  std::optional<std::string_view> FenceOf(const NodeHeader& node);
  // What fence records say, for leaves that can't say it themselves.
  std::optional<std::string_view> FenceByRecords(Address leaf);
  void CollectFenceRecords();
  bool IsLeafSlot(Address address);
  bool IsDeadLeaf(Address address);
  void WalkInner(uint64_t root, Report fault);
  void CheckChildren(const NodeHeader& inner, Report fault);
  void FollowLinks();
  void AddAllThatMayBe();
  void SortLeaves(Report fault);
  bool CheckLinks(Report fault);
  std::optional<OldLeaf> Describe(Address address, Report fault);

  Survey& survey_;
  std::set<Address> found_;  // Leaves.
  bool inner_damaged_ = false;
  std::vector<OldLeaf> leaves_;
  std::optional<std::unordered_map<Address, std::vector<std::string_view>>> fence_records_;
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_REPAIR_TREE_H_
