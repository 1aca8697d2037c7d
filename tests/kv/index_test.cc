// The index's contract, single-threaded, and against std::map.
#include "kv/index.h"

#include "tests/kv/index_harness.h"

namespace daxkv::kv {
namespace {

std::string Number(uint64_t n) {
  char text[24];
  snprintf(text, sizeof(text), "key%012llu", static_cast<unsigned long long>(n));
  return text;
}
std::string Hashed(uint64_t n) { return "user" + std::to_string((n + 1) * 0x9e3779b97f4a7c15); }

TEST(IndexTest, EmptyIndex) {
  IndexHarness store;
  EXPECT_TRUE(absl::IsNotFound(store.Get("k").status()));
  EXPECT_TRUE(absl::IsNotFound(store.Remove("k")));
  ExpectEqual(store, {});
  store.Reopen();
  ExpectEqual(store, {});
}

TEST(IndexTest, PutGetRemove) {
  IndexHarness store;
  absl::StatusOr<bool> replaced = store.Put("a", "1");
  ASSERT_TRUE(replaced.ok());
  EXPECT_FALSE(*replaced);
  replaced = store.Put("a", "2");
  ASSERT_TRUE(replaced.ok());
  EXPECT_TRUE(*replaced);
  EXPECT_EQ(*store.Get("a"), "2");
  EXPECT_EQ(store.memory().retires, 1u);
  EXPECT_TRUE(store.Remove("a").ok());
  EXPECT_TRUE(absl::IsNotFound(store.Get("a").status()));
  EXPECT_EQ(store.memory().retires, 2u);
}

TEST(IndexTest, OrdersOfInsertion) {
  for (int order = 0; order < 3; ++order) {
    IndexHarness store;
    Model model;
    constexpr uint64_t kKeys = 30000;
    for (uint64_t i = 0; i < kKeys; ++i) {
      const std::string key = order == 0 ? Number(i) : order == 1 ? Number(kKeys - i) : Hashed(i);
      ASSERT_TRUE(store.Put(key, std::to_string(i)).ok());
      model[key] = std::to_string(i);
    }
    ExpectEqual(store, model);
    store.Reopen();
    ExpectEqual(store, model);
  }
}

// Keys of all shapes: short, long, shared prefixes, 0x00 and 0xff bytes.
std::string AnyKey(std::mt19937& random) {
  static const std::string kBytes(
      "\0\x01"
      "ab\xfe\xff",
      6);
  switch (random() % 6) {
    case 0:
      return std::string(1, static_cast<char>(random()));
    case 1:
      return std::string(1 + random() % 4, kBytes[random() % kBytes.size()]);
    case 2: {
      std::string key(1 + random() % 12, '\0');
      for (char& c : key) c = kBytes[random() % kBytes.size()];
      return key;
    }
    case 3:
      return "a/long/common/prefix/" + std::to_string(random() % 5000);
    case 4: {
      std::string key(kMaxKeySizeBytes, 'x');
      key[kMaxKeySizeBytes - 1 - random() % 3] = static_cast<char>(random());
      return key;
    }
    default:
      return Number(random() % 100000);
  }
}

TEST(IndexTest, RandomModelWithReopens) {
  for (uint32_t seed = 0; seed < 3; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    IndexHarness store(256 << 20);
    Model model;
    for (int step = 0; step < 30000 && !HasFailure(); ++step) {
      const std::string key = AnyKey(random);
      const uint64_t choice = random() % 100;
      const auto it = model.find(key);
      if (choice < 60) {
        const std::string value(random() % 40, static_cast<char>(step));
        absl::StatusOr<bool> replaced = store.Put(key, value);
        ASSERT_TRUE(replaced.ok()) << replaced.status();
        EXPECT_EQ(*replaced, it != model.end());
        model[key] = value;
      } else if (choice < 80) {
        EXPECT_EQ(store.Remove(key).code(),
                  it != model.end() ? absl::StatusCode::kOk : absl::StatusCode::kNotFound);
        model.erase(key);
      } else {
        absl::StatusOr<std::string> got = store.Get(key);
        ASSERT_EQ(got.ok(), it != model.end()) << got.status();
        if (got.ok()) {
          EXPECT_EQ(*got, it->second);
        }
      }
      if (step % 10000 == 9999) {
        ExpectEqual(store, model);
        if (step < 20000) store.Reopen();
      }
    }
  }
}

TEST(IndexTest, GroupsAgainstModel) {
  std::mt19937 random(7);
  IndexHarness store(256 << 20);
  Model model;
  for (int round = 0; round < 150; ++round) {
    std::map<std::string, std::optional<std::string>> group;
    const uint64_t size = 1 + random() % 700;
    const bool ascending = random() % 3 == 0;
    for (uint64_t i = 0; i < size; ++i) {
      const std::string key = ascending ? Number(1000000 + round * 1000 + i) : AnyKey(random);
      if (random() % 6 == 0) {
        group[key] = std::nullopt;
      } else {
        group[key] = std::to_string(round * 1000 + i);
      }
    }
    uint64_t existed = 0;
    for (const auto& [key, value] : group) existed += model.count(key);
    size_t done = 0;
    uint64_t replaced = 0;
    absl::Status status = store.PutGroup({group.begin(), group.end()}, &done, &replaced);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(done, group.size());
    EXPECT_EQ(replaced, existed);
    for (const auto& [key, value] : group) {
      if (value.has_value()) {
        model[key] = *value;
      } else {
        model.erase(key);
      }
    }
    if (round % 50 == 49) {
      ExpectEqual(store, model);
      rcu::Barrier();
      EXPECT_TRUE(store.Faults(/*expect_no_leak=*/round == 49).empty());
      store.Reopen();
    }
  }
}

TEST(IndexTest, GroupNeedsFewDrains) {
  IndexHarness store(256 << 20);
  std::map<std::string, std::optional<std::string>> group;
  for (uint64_t i = 0; i < 5000; ++i) group[Hashed(i)] = "v";
  size_t done = 0;
  store.memory().drains = 0;
  ASSERT_TRUE(store.PutGroup({group.begin(), group.end()}, &done, nullptr).ok());
  EXPECT_LE(store.memory().drains, 3u + 2u);  // And two for the new root.
  group.clear();
  for (uint64_t i = 5000; i < 10000; ++i) group[Hashed(i)] = "v";
  store.memory().drains = 0;
  ASSERT_TRUE(store.PutGroup({group.begin(), group.end()}, &done, nullptr).ok());
  EXPECT_LE(store.memory().drains, 3u);
}

TEST(IndexTest, ManyKeysWithOneTag) {
  const uint16_t tag = KeyTag("one");
  IndexHarness store;
  Model model;
  for (uint64_t i = 0; model.size() < 160; ++i) {
    const std::string key = Hashed(i);
    if (KeyTag(key) != tag) continue;
    ASSERT_TRUE(store.Put(key, "v").ok());
    model[key] = "v";
  }
  ExpectEqual(store, model);
  store.Reopen();
  ExpectEqual(store, model);
  std::map<std::string, std::optional<std::string>> group;
  for (const auto& [key, value] : model) group["x" + key] = "w";
  size_t done = 0;
  ASSERT_TRUE(store.PutGroup({group.begin(), group.end()}, &done, nullptr).ok());
  for (const auto& [key, value] : group) model[key] = *value;
  ExpectEqual(store, model);
}

TEST(IndexTest, ScansStopAndGoOn) {
  IndexHarness store;
  Model model;
  for (uint64_t i = 0; i < 3000; ++i) {
    ASSERT_TRUE(store.Put(Hashed(i), "v").ok());
    model[Hashed(i)] = "v";
  }
  for (const size_t step : {1, 2, 7, 100, 1000}) {
    absl::StatusOr<Model> found = store.Scan("", step);
    ASSERT_TRUE(found.ok());
    EXPECT_TRUE(*found == model);
  }
  for (uint64_t i = 0; i < 100; ++i) {
    const std::string from = Hashed(i * 7 + 1).substr(0, 4 + i % 12);
    absl::StatusOr<Model> found = store.Scan(from, 1 + i % 50);
    ASSERT_TRUE(found.ok());
    EXPECT_TRUE(*found == Model(model.lower_bound(from), model.end()));
  }
}

TEST(IndexTest, AnOlderRecordDoesNotReplaceANewerOne) {
  IndexHarness store;
  absl::StatusOr<Address> older = store.Write("k", "older");
  ASSERT_TRUE(store.Put("k", "newer").ok());
  EXPECT_TRUE(absl::IsAborted(store.index().Upsert("k", *older).status()));
  absl::StatusOr<Address> before = store.Write("a", "1");
  absl::StatusOr<Address> after = store.Write("z", "1");
  const std::vector<Index::GroupEntry> group = {{"a", *before}, {"k", *older}, {"z", *after}};
  size_t done = 0;
  EXPECT_TRUE(absl::IsAborted(store.index().UpsertSorted(group, &done, nullptr)));
  EXPECT_EQ(done, 1u);
  EXPECT_EQ(*store.Get("k"), "newer");
  EXPECT_EQ(*store.Get("a"), "1");
  EXPECT_TRUE(absl::IsNotFound(store.Get("z").status()));
}

TEST(IndexTest, FindGoesAgainWhenTheVisitorWantsIt) {
  IndexHarness store;
  ASSERT_TRUE(store.Put("k", "v").ok());
  int visits = 0;
  const uint64_t faults = store.memory().faults;
  absl::Status status = store.index().Find("k", [&](const RecordView&) {
    return ++visits < 3 ? absl::UnavailableError("") : absl::CancelledError("enough");
  });
  EXPECT_TRUE(absl::IsCancelled(status));
  EXPECT_EQ(visits, 3);
  EXPECT_EQ(store.memory().faults, faults + 2);
}

// Every allocation of a growing index fails once: the put is refused, and nothing has changed.
TEST(IndexTest, NoRoomAtEachAllocation) {
  IndexHarness store(128 << 20);
  Model model;
  for (uint64_t i = 0; i < 16000; ++i) {
    const std::string key = Hashed(i);
    absl::StatusOr<Address> slot = store.Write(key, "v");
    ASSERT_TRUE(slot.ok());
    for (int64_t allowed = 0;; ++allowed) {
      const uint64_t live = i % 500 == 0 ? store.memory().LiveSlots().size() : 0;
      store.memory().allocations_left = allowed;
      absl::StatusOr<bool> replaced = store.index().Upsert(key, *slot);
      store.memory().allocations_left = -1;
      if (replaced.ok()) break;
      ASSERT_TRUE(absl::IsResourceExhausted(replaced.status())) << replaced.status();
      EXPECT_TRUE(absl::IsNotFound(store.Get(key).status()));
      if (live != 0) {
        EXPECT_EQ(store.memory().LiveSlots().size(), live);
      }
      ASSERT_LT(allowed, 10);
    }
    model[key] = "v";
  }
  ExpectEqual(store, model);
  EXPECT_TRUE(store.Faults(/*expect_no_leak=*/true).empty());
  store.Reopen();
  ExpectEqual(store, model);
}

TEST(IndexTest, NoRoomInTheMiddleOfAGroup) {
  for (int64_t allowed = 0; allowed < 40; ++allowed) {
    IndexHarness store(16 << 20);
    Model model;
    for (uint64_t i = 0; i < 1000; ++i) {
      ASSERT_TRUE(store.Put(Hashed(i), "v").ok());
      model[Hashed(i)] = "v";
    }
    std::vector<Index::GroupEntry> entries;
    Model group;
    for (uint64_t i = 1000; i < 1600; ++i) group[Hashed(i)] = "w";
    for (const auto& [key, value] : group) entries.push_back({key, *store.Write(key, value)});
    size_t done = 0;
    store.memory().allocations_left = allowed;
    absl::Status status = store.index().UpsertSorted(entries, &done, nullptr);
    store.memory().allocations_left = -1;
    EXPECT_TRUE(status.ok() || absl::IsResourceExhausted(status)) << status;
    EXPECT_EQ(status.ok(), done == entries.size());
    for (size_t i = 0; i < done; ++i) model[std::string(entries[i].key)] = "w";
    for (size_t i = done; i < entries.size(); ++i) store.memory().Abandon(entries[i].address);
    ExpectEqual(store, model);
    EXPECT_TRUE(store.Faults(/*expect_no_leak=*/true).empty());
  }
}

TEST(IndexTest, AFailedDrainEndsChangesButNotReads) {
  for (int fails_after = 0; fails_after < 5; ++fails_after) {
    IndexHarness store(16 << 20);
    Model model;
    uint64_t i = 0;
    const auto splits = [&] { return store.index().stats().leaves; };
    while (splits() < 3) {
      ASSERT_TRUE(store.Put(Hashed(i), "v").ok());
      model[Hashed(i++)] = "v";
    }
    // Put until a put drains that often, which a split's does: for its record, and three times more.
    absl::Status status;
    for (; status.ok(); ++i) {
      absl::StatusOr<Address> slot = store.Write(Hashed(i), "v");
      ASSERT_TRUE(slot.ok());
      int drain = 0;
      store.memory().before_drain = [&] { store.memory().fail_drains = drain++ == fails_after; };
      status = store.index().Upsert(Hashed(i), *slot).status();
      store.memory().before_drain = nullptr;
      store.memory().fail_drains = false;
      if (status.ok()) model[Hashed(i)] = "v";
      if (fails_after == 4 && splits() > 5) break;  // No put drains five times here.
    }
    if (fails_after < 4) {
      EXPECT_TRUE(absl::IsInternal(status)) << status;
      EXPECT_TRUE(absl::IsInternal(store.Put("x", "v").status()));
      EXPECT_TRUE(absl::IsInternal(store.Remove(model.begin()->first)));
    }
    for (const auto& [key, value] : model) EXPECT_TRUE(store.Get(key).ok());
    EXPECT_TRUE(store.Scan().ok());
  }
}

TEST(IndexTest, KnowsWhatItRefersTo) {
  IndexHarness store(64 << 20);
  store.memory().reuse = false;  // Unlinked records stay to be asked about.
  for (uint64_t i = 0; i < 20000; ++i) ASSERT_TRUE(store.Put(Hashed(i), "v").ok());
  for (uint64_t i = 0; i < 20000; i += 3) ASSERT_TRUE(store.Put(Hashed(i), "w").ok());
  for (uint64_t i = 0; i < 20000; i += 7) ASSERT_TRUE(store.Remove(Hashed(i)).ok());
  store.Reopen();
  std::map<Address, SlotKind> reached;
  ASSERT_TRUE(store.index()
                  .Verify(
                      Index::VerifyOptions(),
                      [&](SlotKind kind, Address address) { reached[address] = kind; },
                      [](const std::string&) {})
                  .ok());
  store.Reopen();
  uint64_t records = 0, nodes = 0, free = 0;
  for (Address at = ArenaMemory::kExtentSizeBytes; at < store.memory().used_size_bytes();
       at += 64) {
    const auto it = reached.find(at);
    const bool is_node = it != reached.end() && IsNode(it->second);
    absl::StatusOr<bool> refers = store.index().RefersToNode(at);
    ASSERT_TRUE(refers.ok()) << refers.status();
    EXPECT_EQ(*refers, is_node) << at;
    absl::StatusOr<RecordView> record = [&] {
      rcu::ReadGuard guard;
      return ViewRecord(store.memory(), at);
    }();
    nodes += is_node;
    if (!record.ok()) continue;
    refers = store.index().RefersToRecord(*record);
    ASSERT_TRUE(refers.ok()) << refers.status();
    EXPECT_EQ(*refers, it != reached.end() && !is_node) << at;
    records += *refers;
    free += !*refers;
  }
  EXPECT_EQ(nodes + records, reached.size());
  EXPECT_GT(free, 5000u);
}

// The entries that a crash kept from a parent are added when its view is built.
TEST(IndexTest, MissingChildrenAreAddedAgain) {
  IndexHarness store;
  Model model;
  for (uint64_t i = 0; i < 20000; ++i) {
    ASSERT_TRUE(store.Put(Hashed(i), "v").ok());
    model[Hashed(i)] = "v";
  }
  ASSERT_EQ(store.index().stats().height, 3u);
  const auto root_slots = [&] {
    return reinterpret_cast<uint64_t*>(
        store.memory().At((*store.memory().root() & kAddressMask) + sizeof(NodeHeader)));
  };
  const auto inner_slots = [&](unsigned i) {
    return reinterpret_cast<uint64_t*>(store.memory().At(root_slots()[i] + sizeof(NodeHeader)));
  };
  std::mt19937 random(1);
  uint64_t wiped = 0;
  const auto* root_child = reinterpret_cast<const NodeHeader*>(store.memory().At(root_slots()[0]));
  ASSERT_EQ(root_child->low_fence, kNullAddress);
  for (unsigned i = 0; i < kInnerSlots; ++i) {
    if (i > 0 && root_slots()[i] != 0) {
      root_slots()[i] = 0;  // Only its leftmost child is left to the root.
      ++wiped;
    }
  }
  for (unsigned i = 0; i < kInnerSlots; ++i) {
    uint64_t& slot = inner_slots(0)[i];
    const auto* child = reinterpret_cast<const NodeHeader*>(store.memory().At(slot));
    if (slot != 0 && child->low_fence != kNullAddress && random() % 4 == 0) {
      slot = 0;
      ++wiped;
    }
  }
  ASSERT_GT(wiped, 10u);
  store.Reopen();
  ExpectEqual(store, model);
  uint64_t children = 0;
  for (unsigned i = 0; i < kInnerSlots; ++i) children += root_slots()[i] != 0;
  EXPECT_GT(children, 1u);
}

}  // namespace
}  // namespace daxkv::kv
