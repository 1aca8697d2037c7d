#include "xarray/xarray.h"

#include <mutex>

#include "absl/strings/str_cat.h"
#include "xarray/cursor.h"
#include "xarray/with_nodes.h"

namespace daxkv::xarray {
// ---- Lookups ----

template <unsigned kSlotShift>
std::optional<Located> BasicXArray<kSlotShift>::Lookup(uint64_t index) const {
  rcu::ReadGuard guard;
  Cursor cursor(&tree_, index);
  if (!cursor.Load()) return std::nullopt;
  return cursor.located();
}

template <unsigned kSlotShift>
std::optional<unsigned> BasicXArray<kSlotShift>::GetOrder(uint64_t index) const {
  rcu::ReadGuard guard;
  const auto place = tree_.Locate(index);
  if (!place.entry.visible()) return std::nullopt;
  return place.Order();
}

template <unsigned kSlotShift>
std::optional<Located> BasicXArray<kSlotShift>::Find(uint64_t first, uint64_t last) const {
  rcu::ReadGuard guard;
  Cursor cursor(&tree_, first);
  if (!cursor.Find(last)) return std::nullopt;
  return cursor.located();
}

template <unsigned kSlotShift>
std::optional<Located> BasicXArray<kSlotShift>::FindMarked(uint64_t first, uint64_t last,
                                                           Mark mark) const {
  rcu::ReadGuard guard;
  Cursor cursor(&tree_, first);
  if (!cursor.FindMarked(last, mark)) return std::nullopt;
  return cursor.located();
}

template <unsigned kSlotShift>
std::optional<Located> BasicXArray<kSlotShift>::FindConflict(uint64_t index, unsigned order) const {
  const uint64_t mask = order > kMaxOrder ? UINT64_MAX : (uint64_t{1} << order) - 1;
  return Find(index & ~mask, index | mask);
}

template <unsigned kSlotShift>
void BasicXArray<kSlotShift>::ForEach(uint64_t first, uint64_t last, Visitor fn) const {
  for (;;) {
    const std::optional<Located> found = Find(first, last);
    if (!found.has_value() || !fn(*found) || found->last >= last) return;
    first = found->last + 1;
  }
}

template <unsigned kSlotShift>
void BasicXArray<kSlotShift>::ForEachMarked(uint64_t first, uint64_t last, Mark mark,
                                            Visitor fn) const {
  for (;;) {
    const std::optional<Located> found = FindMarked(first, last, mark);
    if (!found.has_value() || !fn(*found) || found->last >= last) return;
    first = found->last + 1;
  }
}

template <unsigned kSlotShift>
size_t BasicXArray<kSlotShift>::Extract(uint64_t first, uint64_t last, absl::Span<Located> out,
                                        std::optional<Mark> mark) const {
  rcu::ReadGuard guard;
  Cursor cursor(&tree_, first);
  const int wanted = mark.has_value() ? static_cast<int>(*mark) : Cursor::kUnmarked;
  size_t count = 0;
  while (count < out.size() && cursor.SearchNext(last, wanted)) out[count++] = cursor.located();
  return count;
}

// ---- Changes ----

template <unsigned kSlotShift>
absl::StatusOr<Entry> BasicXArray<kSlotShift>::Store(uint64_t index, unsigned order, Entry entry) {
  if (entry && !entry.is_internal() && order <= kMaxOrder) {
    // Mostly all nodes are there.
    std::lock_guard<BasicXArray> guard(*this);
    auto place = tree_.LocateLocked(index);
    Entry old;
    if (tree_.StoreAt(&place, order, entry, &old)) return old;
  }
  Cursor cursor(*this, index);
  cursor.SetOrder(order);
  return WithNodes(*this, cursor, [&] { return cursor.Store(entry); });
}

template <unsigned kSlotShift>
absl::Status BasicXArray<kSlotShift>::Insert(uint64_t index, unsigned order, Entry entry) {
  if (entry.is_null() || order > kMaxOrder) {
    return absl::InvalidArgumentError(absl::StrCat("cannot insert at index ", index,
                                                   ": the entry is null, or its order ", order,
                                                   " is above ", kMaxOrder));
  }
  Cursor cursor(*this, index);
  cursor.SetOrder(order);
  return WithNodes(*this, cursor, [&]() -> absl::Status {
    const uint64_t mask = (uint64_t{1} << order) - 1;
    if (cursor.FindTaken(index & ~mask, index | mask)) {
      return absl::AlreadyExistsError(
          absl::StrCat("indices ", cursor.first(), " to ", cursor.last(), " are taken already"));
    }
    cursor.Set(index);
    return cursor.Store(entry).status();
  });
}

template <unsigned kSlotShift>
absl::StatusOr<Entry> BasicXArray<kSlotShift>::CompareExchange(uint64_t index, Entry expected,
                                                               Entry desired) {
  Cursor cursor(*this, index);
  return WithNodes(*this, cursor, [&] { return cursor.CompareExchange(expected, desired); });
}

template <unsigned kSlotShift>
Entry BasicXArray<kSlotShift>::Erase(uint64_t index) {
  Cursor cursor(*this, index);
  std::lock_guard<BasicXArray> guard(*this);
  return cursor.Erase();
}

template <unsigned kSlotShift>
uint64_t BasicXArray<kSlotShift>::EraseRange(uint64_t first, uint64_t last) {
  Cursor cursor(*this, first);
  uint64_t erased = 0;
  std::lock_guard<BasicXArray> guard(*this);
  while (cursor.FindTaken(first, last)) {
    if (cursor.Erase()) ++erased;
  }
  return erased;
}

template <unsigned kSlotShift>
void BasicXArray<kSlotShift>::Clear() {
  std::lock_guard<BasicXArray> guard(*this);
  tree_.Clear();
}

// ---- Marks ----

template <unsigned kSlotShift>
bool BasicXArray<kSlotShift>::GetMark(uint64_t index, Mark mark) const {
  rcu::ReadGuard guard;
  return tree_.Marked(tree_.Locate(index), mark);
}

template <unsigned kSlotShift>
bool BasicXArray<kSlotShift>::SetMark(uint64_t index, Mark mark) {
  Cursor cursor(*this, index);
  std::lock_guard<BasicXArray> guard(*this);
  return cursor.SetMark(mark);
}

template <unsigned kSlotShift>
bool BasicXArray<kSlotShift>::ClearMark(uint64_t index, Mark mark) {
  Cursor cursor(*this, index);
  std::lock_guard<BasicXArray> guard(*this);
  return cursor.ClearMark(mark);
}

template class BasicXArray<3>;
template class BasicXArray<6>;

}  // namespace daxkv::xarray
