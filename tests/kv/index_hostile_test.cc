// Damaged media: whatever bits turn, an index never crashes, never loops, never gives a wrong
// value. A key is missing only if the very slot that held it was hit.
#include "kv/node.h"
#include "tests/kv/index_harness.h"

namespace daxkv::kv {
namespace {

std::string Hashed(uint64_t n) { return "user" + std::to_string((n + 1) * 0x9e3779b97f4a7c15); }

enum class Target { kConstantHeader, kNext, kVolatile, kLeafSlot, kInnerSlot, kRecord, kRoot };

class HostileTest : public ::testing::TestWithParam<Target> {
 protected:
  // Three levels, if `keys` is large.
  void Fill(uint64_t keys) {
    store_ = std::make_unique<IndexHarness>(32 << 20);
    for (uint64_t i = 0; i < keys; ++i) {
      ASSERT_TRUE(store_->Put(Hashed(i), std::to_string(i)).ok());
      model_[Hashed(i)] = std::to_string(i);
    }
    ASSERT_TRUE(store_->index()
                    .Verify(
                        Index::VerifyOptions(),
                        [&](SlotKind kind, Address address) { slots_[kind].push_back(address); },
                        [](const std::string&) {})
                    .ok());
  }

  Address Pick(SlotKind kind, std::mt19937& random) {
    const std::vector<Address>& among = slots_[kind];
    return among[random() % among.size()];
  }

  // Damages a random place of the kind. Adds keys that may be missed to `hit`.
  void Damage(ArenaMemory& memory, std::mt19937& random, std::set<std::string>* hit) {
    const Target target = GetParam();
    SlotKind kind = random() % 3 == 0 ? SlotKind::kInner : SlotKind::kLeaf;
    Address at = 0;
    switch (target) {
      case Target::kConstantHeader:
        at = Pick(kind, random) + random() % offsetof(NodeHeader, reserved1);
        break;
      case Target::kNext:
        at = Pick(kind, random) + offsetof(NodeHeader, next) + random() % 8;
        break;
      case Target::kVolatile:
        at = Pick(kind, random) + offsetof(NodeHeader, volatile_epoch) + random() % 24;
        break;
      case Target::kLeafSlot:
        at = Pick(SlotKind::kLeaf, random) + sizeof(NodeHeader) + random() % (kLeafSlots * 8);
        break;
      case Target::kInnerSlot:
        at = Pick(SlotKind::kInner, random) + sizeof(NodeHeader) + random() % (kInnerSlots * 8);
        break;
      case Target::kRecord:
        at = Pick(SlotKind::kRecord, random) + random() % 40;
        break;
      case Target::kRoot:
        at = ArenaMemory::kRootAddress + random() % 8;
        break;
    }
    if (target == Target::kLeafSlot) {
      const uint64_t slot = *reinterpret_cast<uint64_t*>(memory.At(at / 8 * 8));
      if (slot != 0) {
        // The image's extents may be absent for ViewRecord; its bytes are here all the same.
        const Address record = SlotAddress(slot);
        const auto* header = reinterpret_cast<const RecordHeader*>(memory.At(record));
        if (record < memory.used_size_bytes()) {
          hit->insert(std::string(memory.At(record) + sizeof(RecordHeader),
                                  std::min<size_t>(header->key_size_bytes(), kMaxKeySizeBytes)));
        }
      }
    }
    switch (random() % 4) {
      case 0:
        *memory.At(at) = static_cast<char>(random());
        break;
      case 1: {
        // Another node's or record's address: well-formed and wrong.
        const Address address = Pick(static_cast<SlotKind>(random() % 3), random) | random() % 2;
        std::memcpy(memory.At(at / 8 * 8), &address, 8);
        break;
      }
      default:
        *memory.At(at) = static_cast<char>(*memory.At(at) ^ (1 << random() % 8));
    }
  }

  static bool IsDamage(const absl::Status& status) { return absl::IsDataLoss(status); }

  void Use(IndexHarness& store, const std::set<std::string>& hit, std::mt19937& random) {
    int n = 0;
    for (const auto& [key, value] : model_) {
      if (random() % 16 != 0 && hit.count(key) == 0) continue;
      absl::StatusOr<std::string> got = store.Get(key);
      if (got.ok()) {
        ASSERT_EQ(*got, value) << key;
      } else {
        ASSERT_TRUE(IsDamage(got.status()) ||
                    (absl::IsNotFound(got.status()) && hit.count(key) != 0))
            << key << ": " << got.status();
      }
      if (++n > 400) break;
    }
    absl::StatusOr<Model> scanned = store.Scan("", random() % 2 == 0 ? ~size_t{0} : 50);
    if (scanned.ok()) {
      for (const auto& [key, value] : model_) {
        const auto it = scanned->find(key);
        ASSERT_TRUE(it != scanned->end() || hit.count(key) != 0) << key;
        if (it != scanned->end() && GetParam() != Target::kRecord) {
          ASSERT_EQ(it->second, value);
        }
      }
    } else {
      ASSERT_TRUE(IsDamage(scanned.status())) << scanned.status();
    }
    (void)store.index().Count();
    store.Faults();
    for (int i = 0; i < 30; ++i) {
      absl::Status status = store.Put(Hashed(500000 + random() % 100000), "new").status();
      ASSERT_TRUE(status.ok() || IsDamage(status)) << status;
      status = store.Remove(Hashed(random() % 4000));
      ASSERT_TRUE(status.ok() || IsDamage(status) || absl::IsNotFound(status)) << status;
    }
    for (int i = 0; i < 30; ++i) {
      const Address at = Pick(static_cast<SlotKind>(random() % 3), random) + random() % 64;
      (void)store.index().RefersToNode(at);
      absl::StatusOr<RecordView> record = [&] {
        rcu::ReadGuard guard;
        return ViewRecord(store.memory(), at);
      }();
      if (record.ok()) (void)store.index().RefersToRecord(*record);
    }
    store.Faults();
  }

  std::unique_ptr<IndexHarness> store_;
  Model model_;
  std::map<SlotKind, std::vector<Address>> slots_;
};

// A live slot whose liveness can't be found out now is not dead.
TEST(HostileLivenessTest, AFailedFaultKillsNothing) {
  IndexHarness store(16 << 20);
  for (uint64_t i = 0; i < 3000; ++i) ASSERT_TRUE(store.Put(Hashed(i), "value").ok());
  std::vector<Address> leaves;
  ASSERT_TRUE(store.index()
                  .Verify(
                      Index::VerifyOptions(),
                      [&](SlotKind kind, Address address) {
                        if (kind == SlotKind::kLeaf) leaves.push_back(address);
                      },
                      [](const std::string&) {})
                  .ok());
  store.Reopen();
  store.memory().fail_faults = true;
  for (const Address leaf : leaves) {
    const absl::StatusOr<bool> refers = store.index().RefersToNode(leaf);
    EXPECT_TRUE(!refers.ok() || *refers) << leaf;
  }
  store.memory().fail_faults = false;
  for (const Address leaf : leaves) {
    const absl::StatusOr<bool> refers = store.index().RefersToNode(leaf);
    EXPECT_TRUE(refers.ok() && *refers) << leaf << ": " << refers.status();
  }
}

// Between the look at a slot and the fault of its record's extent, another thread unlinks the
// record and the extent is truncated: that is no damage.
TEST(HostileLivenessTest, AnExtentThatGoesBeforeItsFaultIsNoDamage) {
  IndexHarness store(16 << 20);
  const std::string large(100000, 'l');
  for (const char* key : {"deleted", "replaced", "scanned"}) {
    ASSERT_TRUE(store.Put(key, large).ok());
  }
  store.Reopen();
  // Runs `change` when a large record is about to be faulted in, which then fails.
  const auto at_fault = [&store](std::function<void()> change) {
    store.memory().on_fault = [&store, change](Address address) -> absl::Status {
      const auto* header = reinterpret_cast<const RecordHeader*>(store.memory().At(address));
      if (address % ArenaMemory::kExtentSizeBytes != 0 || header->value_size_bytes != 100000) {
        return absl::OkStatus();
      }
      const std::function<void()> once = change;
      store.memory().on_fault = nullptr;
      once();
      return absl::DataLossError("no extent there");
    };
  };
  at_fault([&] { EXPECT_TRUE(store.Remove("deleted").ok()); });
  EXPECT_TRUE(absl::IsNotFound(store.Get("deleted").status())) << store.Get("deleted").status();
  at_fault([&] { EXPECT_TRUE(store.Put("replaced", "small").ok()); });
  absl::StatusOr<std::string> replaced = store.Get("replaced");
  ASSERT_TRUE(replaced.ok()) << replaced.status();
  EXPECT_EQ(*replaced, "small");
  at_fault([&] { EXPECT_TRUE(store.Remove("scanned").ok()); });
  absl::StatusOr<Model> scanned = store.Scan();
  ASSERT_TRUE(scanned.ok()) << scanned.status();
  EXPECT_EQ(*scanned, (Model{{"replaced", "small"}}));
}

// A crash left a split to finish, and damage made the key of a record that stayed look as if it had
// moved: its slot must not be taken away.
TEST(HostileLivenessTest, ADamagedKeyCostsNoSlotWhenASplitIsFinished) {
  IndexHarness store(4 << 20);
  std::unique_ptr<ArenaMemory> image;
  Model model;
  uint64_t n = 0;
  for (; image == nullptr; ++n) {
    ASSERT_LT(n, 1000u);
    int drain = 0;
    // A put that splits drains for its record, the new leaf, the link, and the slots that moved.
    store.memory().before_drain = [&] {
      if (++drain == 4) image = store.memory().CrashImage(0, 1);
    };
    ASSERT_TRUE(store.Put(Hashed(n), std::to_string(n)).ok());
    model[Hashed(n)] = std::to_string(n);
  }
  const LeafNode& left = *reinterpret_cast<const LeafNode*>(image->At(*image->root()));
  ASSERT_TRUE(left.header.next & kSplitUnfinished);
  const std::string first = model.begin()->first;
  for (const uint64_t slot : left.slots) {
    if (slot == 0) continue;
    char* key = image->At(SlotAddress(slot)) + sizeof(RecordHeader);
    if (std::string_view(key, first.size()) == first) key[0] = 'z';
  }
  absl::StatusOr<std::unique_ptr<IndexHarness>> opened = IndexHarness::Open(std::move(image));
  if (!opened.ok()) {
    EXPECT_TRUE(absl::IsDataLoss(opened.status())) << opened.status();
    return;
  }
  EXPECT_TRUE(absl::IsDataLoss((*opened)->Get(first).status()));
}

TEST_P(HostileTest, NeverCrashesNorLies) {
  int refused = 0, used = 0;
  for (const uint64_t keys : {3000, 16000}) {
    model_.clear();
    slots_.clear();
    Fill(keys);
    for (uint32_t seed = 0; seed < (keys == 3000 ? 150u : 15u) && !HasFatalFailure(); ++seed) {
      SCOPED_TRACE("keys " + std::to_string(keys) + " seed " + std::to_string(seed));
      std::mt19937 random(seed);
      std::unique_ptr<ArenaMemory> image = store_->memory().Reopened();
      image->reuse = false;
      std::set<std::string> hit;
      for (uint32_t i = 0; i < 1 + seed % 3; ++i) Damage(*image, random, &hit);
      absl::StatusOr<std::unique_ptr<IndexHarness>> opened = IndexHarness::Open(std::move(image));
      if (!opened.ok()) {
        ++refused;
        EXPECT_TRUE(IsDamage(opened.status())) << opened.status();
        continue;
      }
      ++used;
      Use(**opened, hit, random);
    }
  }
  EXPECT_GT(refused + used, 0);
}

// Puts of such a key took the record for the work of a later put, and tried again without end.
TEST(HostileRecordTest, ADamagedSequenceKeepsNoPutFromItsKey) {
  IndexHarness store(32 << 20);
  ASSERT_TRUE(store.Put("key", "old").ok());
  std::vector<Address> records;
  ASSERT_TRUE(store.index()
                  .Verify(
                      Index::VerifyOptions(),
                      [&](SlotKind kind, Address address) {
                        if (kind == SlotKind::kRecord) records.push_back(address);
                      },
                      [](const std::string&) {})
                  .ok());
  ASSERT_EQ(records.size(), 1u);
  const auto damage = [&](Address address) {
    reinterpret_cast<RecordHeader*>(store.memory().At(address))->sequence |= uint64_t{1} << 62;
  };
  damage(records[0]);
  ASSERT_TRUE(absl::IsDataLoss(store.Get("key").status()));
  absl::StatusOr<bool> replaced = store.Put("key", "new");
  ASSERT_TRUE(replaced.ok() && *replaced) << replaced.status();
  ASSERT_EQ(*store.Get("key"), "new");
}

std::string TargetName(const ::testing::TestParamInfo<Target>& info) {
  switch (info.param) {
    case Target::kConstantHeader:
      return "ConstantHeader";
    case Target::kNext:
      return "Next";
    case Target::kVolatile:
      return "Volatile";
    case Target::kLeafSlot:
      return "LeafSlot";
    case Target::kInnerSlot:
      return "InnerSlot";
    case Target::kRecord:
      return "Record";
    case Target::kRoot:
      return "Root";
  }
  return "";
}

INSTANTIATE_TEST_SUITE_P(Media, HostileTest,
                         ::testing::Values(Target::kConstantHeader, Target::kNext,
                                           Target::kVolatile, Target::kLeafSlot, Target::kInnerSlot,
                                           Target::kRecord, Target::kRoot),
                         TargetName);

}  // namespace
}  // namespace daxkv::kv
