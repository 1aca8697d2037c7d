// Nodes from the medium: checks, set-up of volatile words, finishing of splits.
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kv/index_impl.h"

namespace daxkv::kv {
namespace {

absl::Status Damaged(Address node, unsigned level, const char* what) {
  return absl::DataLossError(
      absl::StrCat("index node at pool offset ", node, ", level ", level, ": ", what));
}

}  // namespace

absl::Status Obstacle::Absent(Address where) {
  kind = Kind::kAbsentExtent;
  address = where;
  return absl::Status(absl::StatusCode::kUnavailable, "");
}

const absl::Status* Obstacle::WhyGone(Address where) const {
  if (gone == nullptr) return nullptr;
  for (const GoneExtent& extent : *gone) {
    if (extent.address == where) return &extent.why;
  }
  return nullptr;
}

absl::Status Obstacle::NotReady(Address node, unsigned node_level, WriteWindows* set_ups_entered) {
  if (set_ups == nullptr) {
    set_ups = set_ups_entered;
    set_up = set_ups->Enter();
  }
  kind = Kind::kNodeNotReady;
  address = node;
  level = node_level;
  return absl::Status(absl::StatusCode::kUnavailable, "");
}

absl::Status Obstacle::NoView(InnerFrame* which) {
  kind = Kind::kNoView;
  frame = which;
  return absl::Status(absl::StatusCode::kUnavailable, "");
}

absl::Status Obstacle::SplitUnderWay() {
  kind = Kind::kSplitUnderWay;
  return absl::Status(absl::StatusCode::kUnavailable, "");
}

LeafNode& Index::Impl::Leaf(Address address) const {
  return *reinterpret_cast<LeafNode*>(memory->At(address));
}
InnerNode& Index::Impl::Inner(Address address) const {
  return *reinterpret_cast<InnerNode*>(memory->At(address));
}
NodeHeader& Index::Impl::Header(Address address) const {
  return *reinterpret_cast<NodeHeader*>(memory->At(address));
}

bool Index::Impl::IsReady(const NodeHeader& header) const {
  // Acquires what SetUp, or the writer that made the node, released.
  return LoadWord(header.volatile_epoch) == stamp;
}

absl::Status Index::Impl::CheckReady(Address node, unsigned level, Obstacle& obstacle) const {
  const uint64_t size_bytes = NodeSizeBytes(level);
  if (node % size_bytes != 0 || node == kNullAddress) {
    return Damaged(node, level, "it can't begin at this address");
  }
  const Address end = memory->PresentUntil(node);
  if (end == 0) return obstacle.Absent(node);
  if (end - node < size_bytes) return Damaged(node, level, "its extent ends before it");
  const NodeHeader& header = Header(node);
  if (!IsReady(header)) return obstacle.NotReady(node, level, &set_ups);
  // Ready means that the level in the header was checked; it may still be another than the asker's.
  if (header.level != level) return Damaged(node, level, "its own level is another");
  return absl::OkStatus();
}

absl::StatusOr<RecordView> Index::Impl::StableRecord(Address address) const {
  {
    // What is present is seen without a status on the way: a split looks at a hundred.
    rcu::ReadGuard guard;
    RecordView record;
    const Address end = memory->PresentUntil(address);
    if (end != kNullAddress && TryViewRecord(*memory, address, end, &record)) return record;
  }
  for (;;) {
    {
      rcu::ReadGuard guard;
      absl::StatusOr<RecordView> record = ViewRecord(*memory, address);
      if (!absl::IsUnavailable(record.status())) return record;
    }
    if (absl::Status status = memory->FaultIn(address); !status.ok()) return status;
  }
}

bool Index::Impl::IsLostRecord(Address address) const {
  return memory->IsLost(address, sizeof(RecordHeader) + kMaxKeySizeBytes);
}

absl::StatusOr<std::string_view> Index::Impl::LowFence(const NodeHeader& header) const {
  if (header.low_fence == kNullAddress) return std::string_view();
  absl::StatusOr<RecordView> fence = StableRecord(header.low_fence);
  if (!fence.ok()) return fence.status();
  return fence->key;
}

namespace {

// What SetUp checks without a lock: all of it is constant.
absl::Status CheckHeader(const NodeHeader& header, Address node, unsigned level) {
  if (header.magic != (level == 0 ? kLeafMagic : kInnerMagic)) {
    return Damaged(node, level, "wrong magic");
  }
  if (header.checksum != NodeChecksum(header)) {
    return Damaged(node, level, "the header's CRC32C does not match");
  }
  if (header.version != kNodeVersion) return Damaged(node, level, "unknown format version");
  if (header.level != level) return Damaged(node, level, "its own level is another");
  if (header.self != node) return Damaged(node, level, "its own address is another");
  return absl::OkStatus();
}

// Waits, outside any ReadGuard, until the node's extent is present, and checks the node's bounds.
absl::Status FaultInNode(Memory& memory, Address node, unsigned level) {
  const uint64_t size_bytes = NodeSizeBytes(level);
  if (node % size_bytes != 0 || node == kNullAddress) {
    return Damaged(node, level, "it can't begin at this address");
  }
  for (;;) {
    {
      rcu::ReadGuard guard;
      const Address end = memory.PresentUntil(node);
      if (end != 0) {
        if (end - node >= size_bytes) return absl::OkStatus();
        return Damaged(node, level, "its extent ends before it");
      }
    }
    if (absl::Status status = memory.FaultIn(node); !status.ok()) return status;
  }
}

}  // namespace

absl::Status Index::Impl::CheckFence(const NodeHeader& header, Address node, unsigned level) const {
  if (header.low_fence == kNullAddress) return absl::OkStatus();
  absl::StatusOr<RecordView> fence = StableRecord(header.low_fence);
  if (!fence.ok()) return fence.status();
  if (fence->kind != kFenceRecord || fence->value.size() != sizeof(Address)) {
    return Damaged(node, level, "its low fence is no fence record");
  }
  return VerifyRecord(*memory, *fence);
}

// A crash in here leaves the flag of the split set, and the next set-up does the same again.
absl::Status Index::Impl::ClearMovedSlots(LeafNode& leaf, std::string_view fence) {
  // The process that stored `next` may have died before it was durable; the slots must not be gone
  // before it is.
  memory->Flush(&leaf.header, sizeof(leaf.header));
  if (absl::Status status = Drain(); !status.ok()) return status;
  for (uint64_t& slot : leaf.slots) {
    const uint64_t seen = LoadWord(slot);
    if (seen == 0) continue;
    // Nobody could update the right leaf before its slots here were durably cleared, so each slot
    // still leads to the record that moved.
    absl::StatusOr<RecordView> record = StableRecord(SlotAddress(seen));
    // Of these the split left one on either side.
    if (!record.ok() && IsLostRecord(SlotAddress(seen))) continue;
    if (!record.ok()) return record.status();
    // A damaged key must not cost the slot of a record that stayed.
    if (record->kind != kValueRecord || KeyTag(record->key) != SlotTag(seen)) {
      return Damaged(leaf.header.self, 0, "a slot leads to a record that is none of its tag");
    }
    if (record->key.compare(fence) >= 0) StoreWord(slot, 0);
  }
  memory->Flush(leaf.slots, sizeof(leaf.slots));
  return Drain();
}

absl::Status Index::Impl::FinishInheritedSplit(Address node, unsigned level) {
  NodeHeader& header = Header(node);
  const Address right = NextOf(LoadWord(header.next));
  absl::Status status;
  if (level > 0) {
    // An inner node needs no clearing: its view leaves out children beyond the right neighbour's
    // fence and frees their slots. The level above must not name the neighbour before the link is
    // durable.
    memory->Flush(&header, sizeof(header));
    status = Drain();
  } else {
    // The right neighbour is only read, so it needs no set-up of its own here.
    status = FaultInNode(*memory, right, level);
    if (status.ok()) status = CheckHeader(Header(right), right, level);
    if (status.ok()) status = CheckFence(Header(right), right, level);
    if (!status.ok()) return status;
    absl::StatusOr<std::string_view> fence = LowFence(Header(right));
    if (!fence.ok()) return fence.status();
    absl::StatusOr<std::string_view> own = LowFence(header);
    if (!own.ok()) return own.status();
    if (*fence <= *own) {
      return Damaged(right, level, "its low fence is not above its left neighbour's");
    }
    status = ClearMovedSlots(Leaf(node), *fence);
  }
  if (!status.ok()) return status;
  StoreWord(header.next, right);
  memory->Flush(&header, sizeof(header));
  return absl::OkStatus();
}

absl::Status Index::Impl::SetUp(Address node, unsigned level) {
  if (absl::Status status = FaultInNode(*memory, node, level); !status.ok()) return status;
  NodeHeader& header = Header(node);
  if (IsReady(header)) {
    return header.level == level ? absl::OkStatus()
                                 : Damaged(node, level, "its own level is another");
  }
  if (absl::Status status = CheckHeader(header, node, level); !status.ok()) return status;
  if (absl::Status status = CheckFence(header, node, level); !status.ok()) return status;

  std::lock_guard<std::mutex> lock(set_up_mutexes[node / kLeafSizeBytes % kSetUpStripes]);
  if (IsReady(header)) return absl::OkStatus();
  if (LoadWord(header.next) & kSplitUnfinished) {
    if (absl::Status status = FinishInheritedSplit(node, level); !status.ok()) return status;
  }
  uint64_t overflow = 0;
  // Whoever asks whether the index refers to a slot comes through here first.
  memory->FlushInherited(&header + 1, NodeSizeBytes(level) - sizeof(header));
  if (level == 0) {
    LeafImage image = LeafImage::Of(Leaf(node));
    image.RebuildOverflow();
    overflow = image.overflow;
  }
  StoreWord(header.volatile_overflow, overflow);
  StoreWord(header.volatile_version, 0);
  StoreWord(header.volatile_epoch, stamp);
  return absl::OkStatus();
}

uint64_t Index::Impl::NewLockedVersion() noexcept {
  // Spread, so that leaves which follow each other at one address, and are changed a little, do not
  // meet in their counts.
  constexpr uint64_t kSpread = 0x9e37'79b9'7f4a'7c15;
  const uint64_t number = leaves_born.fetch_add(1, std::memory_order_relaxed) + 1;
  return ((number * kSpread >> kSplitCountShift) & kChangeCountMask) | kLockBit;
}

void Index::Impl::WriteHeader(Address node, unsigned level, Address low_fence, uint64_t next,
                              uint64_t version, uint64_t overflow) const {
  NodeHeader header = {};
  header.magic = level == 0 ? kLeafMagic : kInnerMagic;
  header.version = kNodeVersion;
  header.level = static_cast<uint8_t>(level);
  header.self = node;
  header.low_fence = low_fence;
  header.checksum = NodeChecksum(header);
  header.next = next;
  header.volatile_epoch = stamp;
  header.volatile_version = version;
  header.volatile_overflow = overflow;
  std::memcpy(memory->At(node), &header, sizeof(header));
}

absl::Status Index::Impl::Drain() noexcept {
  return AfterDrain(WithoutExceptions([&] { return memory->Drain(); }));
}

absl::Status Index::Impl::AfterDrain(const absl::Status& status) noexcept {
  if (status.ok()) return status;
  medium_failed.store(true, std::memory_order_relaxed);
  return MakeStatus(absl::StatusCode::kInternal,
                    "what was written may not be durable; close the store, see to the medium and "
                    "open it again: ",
                    status.message());
}

absl::Status Index::Impl::CheckMedium() const {
  // Relaxed: a writer that misses another thread's failure meets its own at its next drain.
  if (!medium_failed.load(std::memory_order_relaxed)) return absl::OkStatus();
  return absl::InternalError(
      "an earlier write did not become durable, so the store takes no more; close it, see to the "
      "medium and open it again");
}

}  // namespace daxkv::kv
