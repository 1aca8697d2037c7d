#include "kv/repair_build.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kv/extent_header.h"
#include "kv/key_order.h"
#include "kv/record.h"

namespace daxkv::kv {
namespace {

// Room for what comes: about what splits leave.
constexpr unsigned kLeafFill = 90;
constexpr size_t kInnerFill = 200;

NodeHeader MakeHeader(Address self, unsigned level, Address low_fence, Address next) {
  NodeHeader header = {};
  header.magic = level == 0 ? kLeafMagic : kInnerMagic;
  header.version = kNodeVersion;
  header.level = static_cast<uint8_t>(level);
  header.self = self;
  header.low_fence = low_fence;
  header.checksum = NodeChecksum(header);
  header.next = next;
  return header;
}

}  // namespace

// Of Memory only what WriteRecord needs.
class TreeBuilder::Slots final : public Memory {
 public:
  Slots(dax::Pool* pool, KeyspaceId keyspace) : Memory(pool->At(0), pool->open_epoch(), keyspace) {}
  Address PresentUntil(Address) const override { return kAddressMask; }
  absl::Status FaultIn(Address) override { return absl::OkStatus(); }
  absl::StatusOr<Address> Allocate(SlotKind, uint64_t) override {
    return absl::UnimplementedError("slots are TreeBuilder's");
  }
  void Abandon(Address) noexcept override {}
  void Retire(Address, const uint64_t*) noexcept override {}
  void Flush(const void*, size_t) noexcept override {}  // Finish does.
  absl::Status Drain() override { return absl::OkStatus(); }
};

TreeBuilder::~TreeBuilder() {
  if (!runs_.empty()) pool_.ReleaseRuns(runs_).IgnoreError();
}

uint64_t TreeBuilder::EstimateSizeBytes(uint64_t records, uint64_t key_size_bytes) {
  const uint64_t leaves = records / kLeafFill + 1;
  const uint64_t fence_size_bytes =
      RecordSizeBytes(records == 0 ? 1 : key_size_bytes / records + 1, sizeof(Address)) + 8;
  const uint64_t nodes =
      leaves * (kLeafSizeBytes + fence_size_bytes) + (leaves / kInnerFill + 2) * kInnerSizeBytes;
  // The runs that it begins with are not filled.
  return nodes + nodes / 8 + 3 * (uint64_t{64} << 10);
}

// Runs grow as the index does.
absl::StatusOr<Address> TreeBuilder::Allocate(uint16_t size_class) {
  Current& current = current_[size_class];
  if (current.next_slot == current.layout.slot_count) {
    const uint64_t pages =
        current.layout.slot_count == 0
            ? SmallRunPages(size_class)
            : std::min<uint64_t>(std::max(current.run.pages, SmallRunPages(size_class)) * 2,
                                 dax::kHugePages);
    runs_.reserve(runs_.size() + 1);
    const auto allocate = [&](uint64_t run_pages) {
      return pool_.AllocateRun(run_pages, SlabRunKind(size_class),
                               SlabRunOwner(keyspace_, size_class), run_pages << dax::kPageShift);
    };
    absl::StatusOr<dax::Run> run = allocate(pages);
    if (absl::IsResourceExhausted(run.status())) run = allocate(SmallRunPages(size_class));
    if (!run.ok()) return run.status();
    runs_.push_back(*run);
    WriteRepairHeader(pool_, *run);
    current.run = *run;
    current.layout = SlabLayout(size_class, run->pages);
    current.next_slot = 0;
  }
  return current.run.offset() + current.layout.first_slot_offset +
         uint64_t{current.next_slot++} * current.layout.slot_size_bytes;
}

absl::Status TreeBuilder::Add(std::string_view key, Address record) {
  const uint64_t slot = MakeSlot(KeyTag(key), record);
  const bool begun = leaf_.address != kNullAddress;
  if (!begun || held_ == kLeafFill || image_.Place(slot) < 0) {
    if (absl::Status begins = BeginLeaf(key); !begins.ok()) return begins;
    image_.Place(slot);
  }
  ++held_;
  last_key_.assign(key);
  return absl::OkStatus();
}

// The leaf before, if any, is complete.
absl::Status TreeBuilder::BeginLeaf(std::string_view first_key) {
  absl::StatusOr<Address> address = Allocate(kLeafClass);
  if (!address.ok()) return address.status();
  Child leaf = {*address, kNullAddress};
  if (leaf_.address != kNullAddress) {
    const std::string_view separator = Separator(last_key_, first_key);
    absl::StatusOr<Address> fence =
        Allocate(FenceClass(RecordSizeBytes(separator.size(), sizeof(Address))));
    if (!fence.ok()) return fence.status();
    leaf.low_fence = *fence;
    Slots slots(&pool_, keyspace_);
    WriteRecord(slots, *fence, kFenceRecord, /*sequence=*/0, separator,
                {reinterpret_cast<const char*>(&leaf.address), sizeof(Address)});
    WriteLeaf(*address);
  }
  leaf_ = leaf;
  image_ = LeafImage();
  held_ = 0;
  return absl::OkStatus();
}

void TreeBuilder::WriteLeaf(Address next) {
  auto* node = reinterpret_cast<LeafNode*>(pool_.At(leaf_.address));
  node->header = MakeHeader(leaf_.address, 0, leaf_.low_fence, next);
  std::memcpy(node->slots, image_.slots, sizeof(node->slots));
  level_.push_back(leaf_);
}

absl::Status TreeBuilder::BuildLevel(unsigned level) {
  const std::vector<Child> below = std::exchange(level_, {});
  const size_t nodes = (below.size() + kInnerFill - 1) / kInnerFill;
  for (size_t i = 0; i < nodes; ++i) {
    absl::StatusOr<Address> address = Allocate(kInnerClass);
    if (!address.ok()) return address.status();
    level_.push_back({*address, below[i * kInnerFill].low_fence});
  }
  for (size_t i = 0; i < nodes; ++i) {
    auto* node = reinterpret_cast<InnerNode*>(pool_.At(level_[i].address));
    node->header = MakeHeader(level_[i].address, level, level_[i].low_fence,
                              i + 1 < nodes ? level_[i + 1].address : kNullAddress);
    std::fill(std::begin(node->slots), std::end(node->slots), 0);
    const size_t end = std::min(below.size(), (i + 1) * kInnerFill);
    for (size_t child = i * kInnerFill; child < end; ++child) {
      node->slots[child - i * kInnerFill] = below[child].address;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> TreeBuilder::Finish() {
  if (leaf_.address == kNullAddress) {
    if (absl::Status begun = BeginLeaf({}); !begun.ok()) return begun;
  }
  WriteLeaf(kNullAddress);
  unsigned level = 0;
  while (level_.size() > 1) {
    if (absl::Status built = BuildLevel(++level); !built.ok()) return built;
  }
  // All of it before any of the runs is live: another repair, which looks at whatever lies in live
  // runs, must not meet nodes that are whole in part.
  for (const dax::Run& run : runs_) pool_.Flush(pool_.At(run.offset()), run.size_bytes());
  absl::Status durable = pool_.Drain();
  if (durable.ok()) durable = pool_.CommitRuns(runs_);
  if (!durable.ok()) return durable;
  return level_.front().address | uint64_t{level} << 48;
}

}  // namespace daxkv::kv
