// Many threads against one mapping for some seconds, and an audit at the end (S15).
//
// What mutations/run undoes, and the test that must fail then:
//   S15EverythingAtOnceLeavesNothingBehind: Unlock wakes nobody, and threads pile up
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "tests/dax/mapping_test_util.h"

namespace daxkv::dax {
namespace {

constexpr absl::Duration kStressFor = absl::Seconds(2);

using MappingStressTest = MappingTest;

// Every 8-byte word of an extent holds its generation's stamp.
void Fill(char* bytes, uint64_t size_bytes, uint64_t stamp) {
  for (uint64_t at = 0; at < size_bytes; at += sizeof(stamp)) {
    std::memcpy(bytes + at, &stamp, sizeof(stamp));
  }
}

uint64_t WordAt(const char* bytes, uint64_t at) {
  uint64_t word;
  std::memcpy(&word, bytes + at, sizeof(word));
  return word;
}

// Slots of the index space, each with at most one run; writers truncate a slot and give it a new
// run with a new stamp, so frames move between slots all the time.
class Churn {
 public:
  static constexpr uint64_t kSlots = 24;
  static constexpr uint64_t kSlotPages = 512;  // Room for one huge run.

  Churn(Pool* pool, TableProvider* table, Mapping* mapping)
      : pool_(pool), table_(table), mapping_(mapping) {
    table->AskPool(pool);
    for (uint64_t slot = 0; slot < kSlots; ++slot) Renew(slot);
  }

  static uint64_t FirstIndex(uint64_t slot) { return (slot + 1) << 20; }
  static uint64_t Pages(uint64_t slot) { return uint64_t{1} << (slot % 10); }

  // Gives an empty slot a run full of a fresh stamp. The slot is in the stamp.
  void Renew(uint64_t slot) {
    const uint64_t generation = generations_.fetch_add(1);
    absl::StatusOr<Run> run = pool_->AllocateRun(
        Pages(slot), kTestKind, static_cast<uint16_t>(generation), Pages(slot) << kPageShift);
    ASSERT_OK(run);
    const uint64_t stamp = generation * kSlots + slot;
    Fill(pool_->At(run->offset()), run->size_bytes(), stamp);
    EXPECT_OK(pool_->CommitRun(*run));
    table_->Place(FirstIndex(slot), *run);
  }

  // One thread at a time per slot.
  void Replace(uint64_t slot, absl::Time deadline) {
    absl::StatusOr<LayoutBreak> broken =
        mapping_->BreakLayouts(FirstIndex(slot), kSlotPages, deadline);
    if (!broken.ok()) {
      EXPECT_EQ(CodeOf(broken), absl::StatusCode::kDeadlineExceeded);
      return;
    }
    broken->Release();
    const absl::Status status = mapping_->Truncate(FirstIndex(slot), kSlotPages, deadline);
    if (status.ok()) {
      Renew(slot);
    } else {
      EXPECT_EQ(CodeOf(status), absl::StatusCode::kDeadlineExceeded) << status;
    }
  }

 private:
  Pool* const pool_;
  TableProvider* const table_;
  Mapping* const mapping_;
  std::atomic<uint64_t> generations_{1};
};

// A slot's bytes while it is pinned: all one stamp, of this slot, before and after a pause.
void CheckPinned(const Pinned& pinned, uint64_t slot, std::mt19937_64* random) {
  const uint64_t stamp = WordAt(pinned.data(), 0);
  EXPECT_EQ(stamp % Churn::kSlots, slot);
  for (int look = 0; look < 3; ++look) {
    for (uint64_t at = 0; at < pinned.size_bytes(); at += 4096) {
      ASSERT_EQ(WordAt(pinned.data(), at + (*random)() % 512 * 8), stamp) << "slot " << slot;
    }
    std::this_thread::yield();
  }
}

TEST_F(MappingStressTest, PinnedBytesNeverChange) {
  Churn churn(pool_.get(), &table_, mapping_.get());
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> pins{0};
  std::vector<std::thread> threads;
  for (unsigned writer = 0; writer < 2; ++writer) {
    threads.emplace_back([&, writer] {
      std::mt19937_64 random(writer);
      while (!stop) {
        const uint64_t slot = random() % (Churn::kSlots / 2) * 2 + writer;
        churn.Replace(
            slot, random() % 2 == 0 ? absl::InfinitePast() : absl::Now() + absl::Milliseconds(5));
      }
    });
  }
  for (unsigned reader = 0; reader < 3; ++reader) {
    threads.emplace_back([&, reader] {
      std::mt19937_64 random(100 + reader);
      while (!stop) {
        const uint64_t slot = random() % Churn::kSlots;
        const uint64_t index = Churn::FirstIndex(slot) + random() % Churn::Pages(slot);
        absl::StatusOr<Pinned> pinned = mapping_->Pin(index, Access::kRead);
        if (!pinned.ok()) {
          // The slot is between two runs.
          EXPECT_EQ(CodeOf(pinned), absl::StatusCode::kNotFound) << pinned.status();
          continue;
        }
        CheckPinned(*pinned, slot, &random);
        ++pins;
      }
    });
  }
  absl::SleepFor(kStressFor);
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(pins, 100u);
}

// Copying readers take no pin: what they found present stays until they leave their read section.
TEST_F(MappingStressTest, PresentBytesStayInTheReadSection) {
  Churn churn(pool_.get(), &table_, mapping_.get());
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> reads{0};
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    std::mt19937_64 random(1);
    while (!stop) churn.Replace(random() % Churn::kSlots, absl::InfiniteFuture());
  });
  for (unsigned reader = 0; reader < 2; ++reader) {
    threads.emplace_back([&, reader] {
      std::mt19937_64 random(200 + reader);
      while (!stop) {
        const uint64_t slot = random() % Churn::kSlots;
        const uint64_t index = Churn::FirstIndex(slot);
        mapping_->Fault(index, 9, Access::kRead).status().IgnoreError();
        rcu::ReadGuard guard;
        const std::optional<Extent> extent = mapping_->LookUp(index);
        if (!extent.has_value()) continue;
        const char* bytes = pool_->At(extent->first_frame << kPageShift);
        const uint64_t stamp = WordAt(bytes, 0);
        EXPECT_EQ(stamp % Churn::kSlots, slot);
        for (uint64_t at = 0; at < extent->pages() << kPageShift; at += 4096) {
          ASSERT_EQ(WordAt(bytes, at), stamp);
        }
        ++reads;
      }
    });
  }
  absl::SleepFor(kStressFor);
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(reads, 100u);
}

// Everything at once. The fixture's audit then wants no pin, no waiter and no lock; here no entry
// and no node of the array are left.
TEST_F(MappingStressTest, S15EverythingAtOnceLeavesNothingBehind) {
  const int64_t nodes_before = [] {
    rcu::Barrier();
    return xarray::internal::LiveNodes();
  }();
  std::atomic<bool> stop{false};
  {
    Churn churn(pool_.get(), &table_, mapping_.get());
    std::vector<std::thread> threads;
    const auto run = [&](unsigned seed, auto step) {
      threads.emplace_back([&stop, seed, step] {
        std::mt19937_64 random(seed);
        while (!stop) {
          const uint64_t slot = random() % Churn::kSlots;
          step(&random, slot, Churn::FirstIndex(slot) + random() % Churn::Pages(slot));
        }
      });
    };
    run(1, [&](std::mt19937_64*, uint64_t slot, uint64_t) {
      churn.Replace(slot, absl::Now() + absl::Milliseconds(2));
    });
    run(2, [&](std::mt19937_64* random, uint64_t, uint64_t index) {
      mapping_->Fault(index, (*random)() % 10, Access::kWrite).status().IgnoreError();
      mapping_->MarkDirty(index, 4);
    });
    run(3, [&](std::mt19937_64* random, uint64_t slot, uint64_t index) {
      absl::StatusOr<Pinned> pinned = mapping_->Pin(index, Access::kRead);
      if (pinned.ok()) CheckPinned(*pinned, slot, random);
    });
    // To the slot's end, across the pieces of splits.
    run(7, [&](std::mt19937_64*, uint64_t slot, uint64_t index) {
      const uint64_t end = (Churn::FirstIndex(slot) + Churn::Pages(slot)) << kPageShift;
      const uint64_t first = (index << kPageShift) + 8;
      absl::StatusOr<PinnedRange> range = mapping_->PinRange(first, end - first, Access::kRead);
      if (!range.ok()) return;
      EXPECT_EQ(range->size_bytes(), end - first);
      const uint64_t stamp = WordAt(range->pieces()[0].data(), 0);
      EXPECT_EQ(stamp % Churn::kSlots, slot);
      for (std::string_view piece : range->pieces()) {
        ASSERT_EQ(WordAt(piece.data(), piece.size() - 8), stamp);
      }
    });
    run(4, [&](std::mt19937_64*, uint64_t, uint64_t index) {
      absl::StatusOr<EntryLock> lock = mapping_->LockEntry(index);
      EXPECT_FALSE(lock.ok() && mapping_->TryPin(index).ok());
    });
    run(5, [&](std::mt19937_64* random, uint64_t, uint64_t) {
      absl::StatusOr<EntryLock> lock =
          Mapping::LockFrame(pool_.get(), (*random)() % (uint64_t{1} << 14));
      EXPECT_TRUE(!lock.ok() || lock->mapping() == mapping_.get());
    });
    run(6, [&](std::mt19937_64* random, uint64_t slot, uint64_t index) {
      mapping_->Split(index, (*random)() % 9).IgnoreError();
      EXPECT_OK(mapping_->Writeback(Churn::FirstIndex(slot), Churn::kSlotPages));
    });
    absl::SleepFor(kStressFor);
    stop = true;
    for (std::thread& thread : threads) thread.join();
  }
  const MappingStats stats = mapping_->stats();
  EXPECT_EQ(stats.pins, 0u);
  EXPECT_EQ(stats.waiters, 0u);
  EXPECT_EQ(stats.locked_entries, 0u);
  for (uint64_t slot = 0; slot < Churn::kSlots; ++slot) {
    EXPECT_OK(mapping_->Truncate(Churn::FirstIndex(slot), Churn::kSlotPages, absl::InfinitePast()));
  }
  EXPECT_EQ(mapping_->stats().entries, 0u);
  rcu::Barrier();
  EXPECT_EQ(xarray::internal::LiveNodes(), nodes_before);
  absl::StatusOr<PoolStats> pool_stats = pool_->Stats();
  ASSERT_OK(pool_stats);
  EXPECT_EQ(pool_stats->live_pages, 0u);
  EXPECT_EQ(pool_stats->reserved_pages, 0u);
}

}  // namespace
}  // namespace daxkv::dax
