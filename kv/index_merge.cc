// Leaves that compaction merges and moves.
//
// One round concerns the children of one parent. Runs of neighbouring leaves are locked in
// ascending order, each with the leaf left of it; a run's slots go into one fresh leaf, as they
// are. The fresh leaf takes the place of the first one: it has its low fence (the very record, as
// the parent may begin with it too) and its key range is that of all of them. What is stored then
// is
//   `next` of the leaf left of each run        := the fresh leaf
//   the parent's slot of the run's first leaf  := the fresh leaf
//   the parent's slots of the others           := 0
// as one set of stores: word_stores.h. Crash before its commit: the old leaves; after it: the fresh
// ones. What is not the tree's then is found free as after any crash.
//
// Readers meanwhile: index.h, X9.
#include <algorithm>
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kv/index_impl.h"

namespace daxkv::kv {
namespace {

// What a run of several leaves may hold together: a fresh leaf is filled as one that a split makes,
// so that it is neither split nor merged again soon.
constexpr unsigned kMergedFill = 80;
static_assert(kMergedFill < kLeafSlots);

unsigned SlotsInUse(const LeafNode& leaf) {
  return static_cast<unsigned>(
      std::count_if(std::begin(leaf.slots), std::end(leaf.slots),
                    [](const uint64_t& slot) { return LoadWord(slot) != 0; }));
}

}  // namespace

struct Index::Impl::LeafRewrite {
  // A child of the parent as its view had it.
  struct Child {
    std::string separator;
    Address address;
  };
  struct Locked {
    LeafPosition at;
    LeafLock lock;
  };
  // Neighbouring children.
  struct Range {
    size_t begin, end;
  };
  struct Run {
    size_t begin = 0, end = 0;  // Of `locked`: those that go. The leaf before them is locked, too.
    size_t first_locked = 0;    // Of `locked`: where those that this run added begin.
    LeafImage image;
    OwnedSlot slot;
    Address fresh = kNullAddress;
    bool exact = false;  // The view's separators bound it.
  };

  LeafRewrite(Impl& index_in, LeafRewriter& rewriter_in) : index(index_in), rewriter(rewriter_in) {}

  // The children of the parent that covers `from`, and the runs that may be worth it.
  absl::Status Choose(std::string_view from, Obstacle& obstacle);
  void ChooseRuns(const InnerView& view);
  absl::Status LockRuns();
  // False: the tree has changed, or the run is better left alone.
  absl::StatusOr<bool> LockRun(const Range& range, Run* run);
  absl::StatusOr<bool> LockOne(const LeafTarget& target);
  bool MakeImage(Run* run) const;
  absl::Status AllocateFresh();
  // Gives up the last run, and all after it.
  void DropRunsFrom(size_t first);
  // The rest under the parent's mutex.
  absl::Status CommitUnderMutex();
  void DropStrangers(const std::vector<InnerView::Child>& children);
  std::unique_ptr<const InnerView> NextView(const InnerView& view,
                                            std::vector<InnerView::Child> children) const;
  void CollectStores();
  void WriteFresh() const noexcept;
  absl::Status Commit(std::unique_ptr<const InnerView> view) noexcept;
  void MakeStores(std::unique_ptr<const InnerView> view) noexcept;
  void Unlock() noexcept;

  // Whether the leaf left of a run is the last one of the run before, and goes with it.
  bool FollowsRun(size_t r) const { return r > 0 && runs[r - 1].end == runs[r].begin; }
  NodeHeader& HeaderOf(size_t i) const { return locked[i].at.leaf->header; }

  Impl& index;
  LeafRewriter& rewriter;
  InnerFrame* frame = nullptr;  // Null: a lone leaf.
  std::vector<Child> children;
  std::string upper;  // The parent's, unless it is the last one.
  bool is_last = true;
  std::vector<Range> chosen;
  std::vector<Run> runs;
  std::vector<Locked> locked;  // In ascending order.
  std::vector<WordStore> stores;
};

absl::Status Index::Impl::LeafRewrite::Choose(std::string_view from, Obstacle& obstacle) {
  children.clear();
  chosen.clear();
  const InnerView* view;
  absl::Status status = index.DescendToFrame(from, 1, &frame, &view, obstacle);
  if (!status.ok()) return status;
  is_last = view->right() == nullptr;
  upper.assign(view->right_fence());
  for (unsigned i = 0; i < view->size(); ++i) {
    children.push_back({std::string(view->separator(i)), view->leaf(i)});
  }
  ChooseRuns(*view);
  return absl::OkStatus();
}

void Index::Impl::LeafRewrite::ChooseRuns(const InnerView& view) {
  size_t begin = 0, held = 0;
  bool must_move = false;
  const auto end_run = [&](size_t end) {
    if (end > begin + 1 || must_move) chosen.push_back(Range{begin, end});
  };
  for (size_t i = 0; i < children.size(); ++i) {
    // The leftmost of all stays.
    if (children[i].separator.empty()) {
      begin = i + 1;
      continue;
    }
    const Address address = view.leaf(static_cast<unsigned>(i));
    const size_t slots = SlotsInUse(index.Leaf(address));
    if (i > begin && held + slots > kMergedFill) {
      end_run(i);
      begin = i;
      held = 0;
      must_move = false;
    }
    held += slots;
    must_move = must_move || rewriter.MustMove(address);
  }
  if (begin < children.size()) end_run(children.size());
}

absl::StatusOr<bool> Index::Impl::LeafRewrite::LockOne(const LeafTarget& target) {
  Locked& leaf = locked.emplace_back();
  absl::Status status = index.LockLeafFor(target, &leaf.at, &leaf.lock);
  if (absl::IsDataLoss(status)) return false;
  if (!status.ok()) return status;
  return true;
}

absl::StatusOr<bool> Index::Impl::LeafRewrite::LockRun(const Range& range, Run* run) {
  run->first_locked = locked.size();
  const Child& first = children[range.begin];
  const auto leads_to = [this](size_t i, Address address) {
    return LoadWord(HeaderOf(i).next) == address;
  };
  const bool after_run = !runs.empty() && runs.back().end == locked.size() &&
                         leads_to(locked.size() - 1, first.address);
  if (!after_run) {
    // What lies between a locked leaf and ours would be locked twice.
    if (!locked.empty() && locked.back().at.address == children[range.begin - 1].address) {
      return false;
    }
    absl::StatusOr<bool> had = LockOne(LeafTarget::Before(first.separator));
    if (!had.ok() || !*had) return had;
  }
  run->begin = locked.size();
  for (size_t i = range.begin; i < range.end; ++i) {
    if (!leads_to(locked.size() - 1, children[i].address)) return false;
    absl::StatusOr<bool> had = LockOne(std::string_view(children[i].separator));
    if (!had.ok() || !*had) return had;
    if (locked.back().at.address != children[i].address) return false;
  }
  run->end = locked.size();
  return MakeImage(run);
}

// Nobody changes the leaves any more.
bool Index::Impl::LeafRewrite::MakeImage(Run* run) const {
  {
    rcu::ReadGuard guard;
    for (size_t i = run->begin; i < run->end; ++i) {
      const LeafPosition& at = locked[i].at;
      if (index.snapshots.HistoryOf(at.address) != nullptr) return false;
      LeafImage image = LeafImage::Of(*at.leaf);
      image.RebuildOverflow();
      if (image.overflow & kMissProvesNothing) return false;
    }
  }
  if (LoadWord(HeaderOf(run->end - 1).next) & kSplitUnfinished) return false;
  run->image = LeafImage::Of(*locked[run->begin].at.leaf);
  run->image.RebuildOverflow();
  unsigned held = SlotsInUse(*locked[run->begin].at.leaf);
  for (size_t i = run->begin + 1; i < run->end; ++i) {
    held += SlotsInUse(*locked[i].at.leaf);
    if (held > kMergedFill) return false;
    for (const uint64_t& slot : locked[i].at.leaf->slots) {
      if (slot != 0 && run->image.Place(slot) < 0) return false;
    }
  }
  return true;
}

absl::Status Index::Impl::LeafRewrite::LockRuns() {
  for (const Range& range : chosen) {
    Run run;
    absl::StatusOr<bool> had = LockRun(range, &run);
    if (!had.ok()) return had.status();
    if (*had) {
      runs.push_back(std::move(run));
    } else {
      locked.erase(locked.begin() + static_cast<ptrdiff_t>(run.first_locked), locked.end());
    }
  }
  return absl::OkStatus();
}

void Index::Impl::LeafRewrite::DropRunsFrom(size_t first) {
  if (first >= runs.size()) return;
  const auto begin = static_cast<ptrdiff_t>(runs[first].first_locked);
  runs.erase(runs.begin() + static_cast<ptrdiff_t>(first), runs.end());
  locked.erase(locked.begin() + begin, locked.end());
}

absl::Status Index::Impl::LeafRewrite::AllocateFresh() {
  for (size_t i = 0; i < runs.size(); ++i) {
    absl::StatusOr<Address> leaf = rewriter.AllocateLeaf();
    if (!leaf.ok()) {
      DropRunsFrom(i);
      return leaf.status();
    }
    runs[i].slot = OwnedSlot(index.memory, *leaf);
    runs[i].fresh = *leaf;
  }
  return absl::OkStatus();
}

// The parent may have been split since the runs were chosen: runs that are not wholly its own.
void Index::Impl::LeafRewrite::DropStrangers(const std::vector<InnerView::Child>& now) {
  for (size_t r = 0; r < runs.size(); ++r) {
    Run& run = runs[r];
    const auto first = std::find_if(now.begin(), now.end(), [&](const InnerView::Child& child) {
      return child.address == locked[run.begin].at.address;
    });
    const size_t count = run.end - run.begin;
    bool known = static_cast<size_t>(now.end() - first) >= count;
    for (size_t i = 0; known && i < count; ++i) {
      known = first[static_cast<ptrdiff_t>(i)].address == locked[run.begin + i].at.address;
    }
    if (!known) return DropRunsFrom(r);
    const InnerView::Child& last = first[static_cast<ptrdiff_t>(count) - 1];
    run.exact = last.split_count == SplitCount(HeaderOf(run.end - 1));
  }
}

std::unique_ptr<const InnerView> Index::Impl::LeafRewrite::NextView(
    const InnerView& view, std::vector<InnerView::Child> now) const {
  for (const Run& run : runs) {
    const auto first = std::find_if(now.begin(), now.end(), [&](const InnerView::Child& child) {
      return child.address == locked[run.begin].at.address;
    });
    first->address = run.fresh;
    // The split count that WriteFresh gives it. The leaf left of the run keeps its bounds.
    first->split_count = run.exact ? 0 : InnerView::kUnknownSplitCount;
    now.erase(first + 1, first + static_cast<ptrdiff_t>(run.end - run.begin));
  }
  return InnerView::Make(now, InnerView::Right{view.right(), view.right_fence()});
}

void Index::Impl::LeafRewrite::CollectStores() {
  stores.reserve(LeafRewriter::kMostStores);
  const char* const base = index.memory->At(0);
  const auto add = [&](const uint64_t& word, uint64_t value) {
    stores.push_back({static_cast<Address>(reinterpret_cast<const char*>(&word) - base), value});
  };
  for (size_t r = 0; r < runs.size(); ++r) {
    if (!FollowsRun(r)) add(HeaderOf(runs[r].begin - 1).next, runs[r].fresh);
  }
  const InnerNode& parent = index.Inner(frame->address);
  for (const Run& run : runs) {
    // A leaf that there was no slot for is found by going right; so is the fresh one then.
    bool stored = false;
    for (size_t i = run.begin; i < run.end; ++i) {
      const auto* slot =
          std::find(std::begin(parent.slots), std::end(parent.slots), locked[i].at.address);
      if (slot == std::end(parent.slots)) continue;
      add(*slot, stored ? kNullAddress : run.fresh);
      stored = true;
    }
  }
}

// Born locked. Nothing leads to them yet.
void Index::Impl::LeafRewrite::WriteFresh() const noexcept {
  for (size_t r = 0; r < runs.size(); ++r) {
    const Run& run = runs[r];
    const Address next = r + 1 < runs.size() && FollowsRun(r + 1)
                             ? runs[r + 1].fresh
                             : LoadWord(HeaderOf(run.end - 1).next);
    index.WriteHeader(run.fresh, 0, HeaderOf(run.begin).low_fence, next, index.NewLockedVersion(),
                      run.image.overflow);
    LeafNode& leaf = index.Leaf(run.fresh);
    std::copy(std::begin(run.image.slots), std::end(run.image.slots), std::begin(leaf.slots));
    index.memory->Flush(&leaf, sizeof(leaf));
  }
}

absl::Status Index::Impl::LeafRewrite::CommitUnderMutex() {
  // The leaves of each run, and the fences of all but its first.
  size_t retires = 0;
  for (const Run& run : runs) retires += 2 * (run.end - run.begin) - 1;
  absl::Status status = index.memory->ReserveRetires(retires);
  if (!status.ok()) return status;
  const std::lock_guard<std::mutex> mutex(frame->mutex);
  const InnerView* view = frame->view.load(std::memory_order_relaxed);
  std::vector<InnerView::Child> now = view->Children(/*level=*/1);
  DropStrangers(now);
  for (const Run& run : runs) retires -= 2 * (run.end - run.begin) - 1;
  index.memory->CancelRetires(retires);  // Of those that were dropped.
  if (runs.empty()) return absl::OkStatus();
  std::unique_ptr<const InnerView> next = NextView(*view, std::move(now));
  CollectStores();
  return Commit(std::move(next));
}

absl::Status Index::Impl::LeafRewrite::Commit(std::unique_ptr<const InnerView> view) noexcept {
  WriteFresh();
  bool begun = false;
  absl::Status status =
      index.AfterDrain(WithoutExceptions([&] { return rewriter.Commit(stores, &begun); }));
  if (begun) {
    for (Run& run : runs) run.slot.Release();
  }
  if (!status.ok()) return status;
  MakeStores(std::move(view));
  status = index.Drain();
  if (status.ok()) {
    status = index.AfterDrain(WithoutExceptions([&] { return rewriter.Finish(); }));
  }
  // After a failed drain no writer changes them.
  for (const Run& run : runs) UnlockLeaf(index.Leaf(run.fresh));
  return status;
}

// One read section: who unlinks a slot retires it in the same. No store need be durable before the
// slots are reused: a crash is followed by the redo.
void Index::Impl::LeafRewrite::MakeStores(std::unique_ptr<const InnerView> view) noexcept {
  rcu::ReadGuard guard;
  for (const WordStore& store : stores) {
    auto& word = *reinterpret_cast<uint64_t*>(index.memory->At(store.at));
    StoreWord(word, store.value);
    index.memory->Flush(&word, sizeof(word));
  }
  index.PublishView(frame, std::move(view));
  for (const Run& run : runs) {
    for (size_t i = run.begin; i < run.end; ++i) {
      const NodeHeader& header = HeaderOf(i);
      const Address fence = header.low_fence;
      const Address address = locked[i].at.address;
      MarkDead(*locked[i].at.leaf);
      locked[i].lock.Unlock();
      index.memory->Retire(address, /*link=*/nullptr);
      if (i > run.begin) index.memory->Retire(fence, /*link=*/nullptr);
    }
  }
}

absl::Status Index::Impl::RewriteLeaves(std::string_view from, LeafRewriter& rewriter,
                                        RewriteResult* result, std::string* next_from, bool* end) {
  *end = true;
  if (root_frame.load(std::memory_order_acquire) == nullptr) return absl::OkStatus();
  LeafRewrite rewrite(*this, rewriter);
  absl::Status status = Run([&](Obstacle& obstacle) { return rewrite.Choose(from, obstacle); });
  if (!status.ok()) return status;
  result->leaves_seen += rewrite.children.size();
  *end = rewrite.is_last;
  *next_from = rewrite.upper;
  if (rewrite.chosen.empty()) return absl::OkStatus();
  if (!rewrite.frame->settled) {
    // The children are ready; now nobody is still about to set one of them up.
    rcu::Synchronize();
    set_ups.WaitForAll();
    rewrite.frame->settled = true;
  }
  status = rewrite.LockRuns();
  if (!status.ok()) return status;
  const absl::Status allocated = rewrite.AllocateFresh();
  if (!rewrite.runs.empty()) status = rewrite.CommitUnderMutex();
  if (!status.ok()) return status;
  for (const LeafRewrite::Run& run : rewrite.runs) {
    result->leaves_freed += run.end - run.begin;
    ++result->leaves_written;
  }
  return allocated;
}

absl::Status Index::RewriteLeaves(std::string_view from, LeafRewriter& rewriter,
                                  RewriteResult* result, std::string* next_from, bool* end) const {
  return WithoutExceptions(
      [&] { return impl_->RewriteLeaves(from, rewriter, result, next_from, end); });
}

}  // namespace daxkv::kv
