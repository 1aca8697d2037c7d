// The walk over everything, level by level along the links, that finds every fault.
#include <algorithm>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kv/index_impl.h"

namespace daxkv::kv {

struct Index::Impl::Verifier {
  // A node with its fence, as its parent has it.
  struct Known {
    std::string_view fence;
    Address address;
  };

  Verifier(Impl& index_in, const VerifyOptions& options_in,
           absl::FunctionRef<void(SlotKind, Address)> visit_slot_in,
           absl::FunctionRef<void(std::string)> report_in)
      : index(index_in), options(options_in), visit_slot(visit_slot_in), report(report_in) {}

  void Fault(std::string line) {
    ++faults;
    report(std::move(line));
  }
  // Damage is a fault; anything else, as a lack of memory, ends the walk.
  void Note(const absl::Status& status, std::string where) {
    if (absl::IsDataLoss(status)) {
      Fault(std::move(where) + std::string(status.message()));
    } else {
      failure.Update(status);
    }
  }
  void NodeFault(Address node, const char* what) {
    Fault(absl::StrCat("index node at pool offset ", node, ": ", what));
  }

  absl::Status Run() {
    const uint64_t root = LoadWord(*index.root_word);
    std::vector<Known> above = {{std::string_view(), root & kAddressMask}};
    for (int level = static_cast<int>(root >> 48); level >= 0; --level) {
      above = WalkLevel(static_cast<unsigned>(level), above);
      if (!failure.ok()) return failure;
      if (above.empty() && level > 0) {
        Fault(absl::StrCat("index: nothing leads to level ", level - 1));
        break;
      }
    }
    if (faults == 0) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat("the index has ", faults, " faults"));
  }

  // Walks a level from its leftmost node along the links; where a link is broken, goes on with the
  // next node that the level above knows. Returns the children, in order.
  std::vector<Known> WalkLevel(unsigned level, std::vector<Known> known) {
    std::sort(known.begin(), known.end(),
              [](const Known& a, const Known& b) { return a.fence < b.fence; });
    std::vector<Known> children;
    std::unordered_set<Address> walked;
    bool broken = false;
    for (size_t i = 0; i < known.size(); ++i) {
      Address node = known[i].address;
      if (walked.count(node) != 0) continue;
      if (i > 0 && !broken) NodeFault(node, "its left neighbour's link passes it by");
      broken = false;
      std::string_view last;
      for (bool first = true; node != kNullAddress; first = false) {
        Known at = {std::string_view(), node};
        if (!Open(node, level, &at.fence) || (!first && at.fence <= last)) {
          if (!first && at.fence <= last) NodeFault(node, "its fence is not above its left's");
          broken = true;
          break;
        }
        walked.insert(node);
        last = at.fence;
        node = CheckNode(level, at, &children);
        if (node != kNullAddress && walked.count(node) != 0) break;
      }
    }
    return children;
  }

  // Sets a node up and reads its fence. False: a fault was reported.
  bool Open(Address node, unsigned level, std::string_view* fence) {
    absl::Status status = index.SetUp(node, level);
    if (status.ok()) {
      absl::StatusOr<std::string_view> low = index.LowFence(index.Header(node));
      status = low.status();
      if (status.ok()) *fence = *low;
    }
    if (!status.ok()) Note(status, "");
    return status.ok();
  }

  // Returns the right neighbour.
  Address CheckNode(unsigned level, const Known& at, std::vector<Known>* children) {
    const NodeHeader& header = index.Header(at.address);
    visit_slot(level == 0 ? SlotKind::kLeaf : SlotKind::kInner, at.address);
    if (level == 0 && header.low_fence != kNullAddress) {
      visit_slot(SlotKind::kFence, header.low_fence);
    }
    const Address next = NextOf(LoadWord(header.next));
    std::string_view upper;
    absl::Status status = next == kNullAddress ? absl::OkStatus() : index.SetUp(next, level);
    const bool has_upper = next != kNullAddress && status.ok();
    if (has_upper) {
      absl::StatusOr<std::string_view> fence = index.LowFence(index.Header(next));
      if (fence.ok()) upper = *fence;
    }
    if (level == 0) {
      CheckLeaf(at, has_upper, upper);
    } else {
      CheckInner(level, at, has_upper, upper, children);
    }
    return next;
  }

  void CheckInner(unsigned level, const Known& at, bool has_upper, std::string_view upper,
                  std::vector<Known>* children) {
    const size_t begin = children->size();
    for (const uint64_t& slot : index.Inner(at.address).slots) {
      const Address child = LoadWord(slot);
      if (child == kNullAddress) continue;
      std::string_view fence;
      if (!Open(child, level - 1, &fence)) continue;
      if (has_upper && fence >= upper) continue;  // It moved right.
      if (fence < at.fence) NodeFault(child, "it lies below its parent's low fence");
      children->push_back({fence, child});
    }
    std::sort(children->begin() + static_cast<ptrdiff_t>(begin), children->end(),
              [](const Known& a, const Known& b) { return a.fence < b.fence; });
    if (children->size() == begin) {
      NodeFault(at.address, "it has no child");
    } else if ((*children)[begin].fence != at.fence) {
      NodeFault(at.address, "its leftmost child is missing");
    }
    for (size_t i = begin + 1; i < children->size(); ++i) {
      if ((*children)[i - 1].fence == (*children)[i].fence) {
        NodeFault((*children)[i].address, "another child of its parent has the same low fence");
      }
    }
  }

  void CheckLeaf(const Known& at, bool has_upper, std::string_view upper) {
    const LeafNode& leaf = index.Leaf(at.address);
    LeafImage image = LeafImage::Of(leaf);
    image.RebuildOverflow();
    if (image.overflow & kMissProvesNothing) {
      NodeFault(at.address, "a slot lies where its tag can't have put it");
    }
    std::vector<std::string_view> keys;
    for (const uint64_t slot : image.slots) {
      if (slot == 0) continue;
      const Address address = SlotAddress(slot);
      absl::StatusOr<RecordView> record = index.StableRecord(address);
      visit_slot(SlotKind::kRecord, address);  // Reachable also if it is damaged.
      absl::Status status = record.status();
      if (status.ok() && options.checksums) status = VerifyRecord(*index.memory, *record);
      if (!status.ok()) {
        Note(status, absl::StrCat("index leaf at pool offset ", at.address, ": "));
        continue;
      }
      const char* wrong = nullptr;
      if (record->kind != kValueRecord) {
        wrong = "is none of a value";
      } else if (KeyTag(record->key) != SlotTag(slot)) {
        wrong = "has a key of another tag";
      } else if (record->key < at.fence || (has_upper && record->key >= upper)) {
        wrong = "has a key outside the leaf's fences";
      }
      if (wrong != nullptr) {
        Fault(absl::StrCat("index leaf at pool offset ", at.address, ": the record at ", address,
                           " ", wrong));
      }
      keys.push_back(record->key);
    }
    std::sort(keys.begin(), keys.end());
    if (std::adjacent_find(keys.begin(), keys.end()) != keys.end()) {
      NodeFault(at.address, "two slots hold one key");
    }
  }

  Impl& index;
  const VerifyOptions& options;
  absl::FunctionRef<void(SlotKind, Address)> visit_slot;
  absl::FunctionRef<void(std::string)> report;
  uint64_t faults = 0;
  absl::Status failure;
};

absl::Status Index::Verify(const VerifyOptions& options,
                           absl::FunctionRef<void(SlotKind, Address)> visit_slot,
                           absl::FunctionRef<void(std::string)> report) const {
  return WithoutExceptions(
      [&] { return Impl::Verifier(*impl_, options, visit_slot, report).Run(); });
}

}  // namespace daxkv::kv
