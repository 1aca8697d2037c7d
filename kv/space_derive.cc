// Frames for extents of earlier sessions: loaded from saved maps, or derived.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kv/record.h"
#include "kv/space_impl.h"
#include "xarray/rcu.h"

namespace daxkv::kv {
namespace {

// Saved maps that one allocation may load before it rather takes a new run.
constexpr unsigned kMapsPerRefill = 4;
// Windows that it may list: as many as it may look at for a new run, so that sessions of a few
// calls meet the extents of those before them.
constexpr uint64_t kWindowsPerRefill = dax::Pool::kMostWindowsPerRun;

absl::Status LostHeaderError(Address extent) {
  return absl::DataLossError(
      absl::StrCat("the extent header at pool offset ", extent, " is lost to a media error"));
}

bool HasNoneToFeed(SizeClass& size_class) {
  std::lock_guard<std::mutex> lock(size_class.mutex);
  return size_class.unknown.empty() && size_class.underived.empty();
}

std::vector<uint64_t> LostPagesOf(const dax::Pool& pool, const dax::Run& run) {
  if (!pool.HasLostPages()) return {};
  std::vector<uint64_t> pages = pool.ListLostPages();
  pages.erase(std::remove_if(pages.begin(), pages.end(),
                             [&run](uint64_t page) { return page - run.first_page >= run.pages; }),
              pages.end());
  return pages;
}

// Whether bytes may be what a slot of this kind holds. Only fields that never change are read: the
// slot may be a node at which writers are at work.
bool IsPlausible(const dax::Pool& pool, SlotKind kind, Address address, uint64_t slot_size_bytes) {
  if (!IsNode(kind)) {
    const auto* record = reinterpret_cast<const RecordHeader*>(pool.At(address));
    const uint8_t kind = KindAndFlags(*record);
    return IsRecordKind(kind) &&
           sizeof(RecordHeader) + record->key_size_bytes() + uint64_t{record->value_size_bytes} <=
               slot_size_bytes;
  }
  const auto* node = reinterpret_cast<const NodeHeader*>(pool.At(address));
  return node->magic == (kind == SlotKind::kLeaf ? kLeafMagic : kInnerMagic) &&
         node->self == address;
}

}  // namespace

// Extents of this session have frames from their beginning to their end, and so have those of
// earlier ones that were met by another way: they are counted then.
absl::Status Space::Impl::ListSome() {
  if (all_listed()) return absl::OkStatus();
  return WithoutExceptions([&] {
    std::vector<dax::Run> found;
    const absl::StatusOr<uint64_t> below =
        pool->ForEachRunBelow(listed_from, [&](const dax::Run& run) {
          if (UseOf(run).IsExtentOf(keyspace) && FindFrame(run.offset()) == nullptr) {
            found.push_back(run);
          }
          return absl::OkStatus();
        });
    if (!below.ok()) return below.status();
    // All or nothing, should memory run out.
    for (const dax::Run& run : found) {
      SizeClass& size_class = classes[UseOf(run).size_class];
      std::lock_guard<std::mutex> lock(size_class.mutex);
      ReserveMore(size_class.unknown, found.size());
    }
    for (const dax::Run& run : found) {
      SizeClass& size_class = classes[UseOf(run).size_class];
      size_class.run_size_bytes.fetch_add(run.size_bytes(), std::memory_order_relaxed);
      std::lock_guard<std::mutex> lock(size_class.mutex);
      size_class.unknown.push_back(run.offset());
    }
    listed_from = *below;
    return absl::OkStatus();
  });
}

absl::Status Space::Impl::ListAll() {
  absl::Status status;
  while (status.ok() && !all_listed()) status = ListSome();
  return status;
}

void Space::Impl::WantListing() {
  if (listing_wanted.load(std::memory_order_relaxed)) return;
  listing_wanted.store(true, std::memory_order_relaxed);
  worker.Call(this, kListingPause);
}

bool Space::Impl::ListForWorker() {
  if (!listing_wanted.load(std::memory_order_relaxed)) return false;
  bool more = !all_listed();
  if (more && !ListSome().ok()) {
    // Until an allocation wants more. Whoever needs all is told of it.
    listing_wanted.store(false, std::memory_order_relaxed);
    more = false;
  }
  return pool->FindMoreFreePages() || more;
}

// O(1): reads the header and the map. The extent is present afterwards.
absl::StatusOr<ExtentFrame*> Space::Impl::LoadFrame(Address extent, bool retired) {
  const absl::StatusOr<dax::Run> run = FindExtent(extent >> dax::kPageShift);
  if (!run.ok()) return run.status();
  if (!run->live || run->offset() != extent) return nullptr;
  absl::Status status = FaultRun(*run);
  if (!status.ok()) {
    // If it was released just now, that is no damage.
    const absl::Status now = FindExtent(run->first_page).status();
    return absl::IsNotFound(now) ? now : status;
  }
  if (IsHeaderLost(*run)) return LostHeaderError(extent);
  const absl::StatusOr<SlotLayout> layout = CheckExtent(*pool, *run);
  if (!layout.ok()) return layout.status();
  const bool known = (retired && layout->size_class == kLargeClass) ||
                     HasValidMap(*pool, extent, *layout, MapsValidSince());
  if (!known) return nullptr;
  auto frame = std::make_unique<ExtentFrame>(*run, *layout);
  if (frame->is_large()) {
    frame->SetUsed(0);
  } else {
    frame->LoadMap(SavedMap(*pool, extent));
    for (const uint64_t page : LostPagesOf(*pool, *run)) SetAsideFreeSlots(frame.get(), page);
  }
  status = InsertFrame(frame.get());
  if (!status.ok()) return status;
  if (run->first_page < listed_from) {
    ClassOf(*frame).run_size_bytes.fetch_add(run->size_bytes(), std::memory_order_relaxed);
  }
  if (!frame->is_large()) Attach(frame.get());
  return frame.release();
}

void Space::Impl::PutBack(std::vector<Address>* list, SizeClass& size_class,
                          Address extent) noexcept {
  std::lock_guard<std::mutex> lock(size_class.mutex);
  // Without room for it its free slots are not used in this session.
  WithoutExceptions([&] {
    list->push_back(extent);
    return absl::OkStatus();
  }).IgnoreError();
}

void Space::Impl::NoteDamage(Address extent, const absl::Status& status) {
  // The run was released since it was listed, or is a new one in its place, with a frame.
  if (status.ok() || absl::IsNotFound(status) || absl::IsAlreadyExists(status)) return;
  if (absl::IsResourceExhausted(status)) return;  // Of memory.
  damaged.emplace(extent, std::string(status.message()));
}

void Space::Impl::FeedFromSavedMaps(uint16_t class_number) {
  SizeClass& size_class = classes[class_number];
  const auto take = [&] {
    std::lock_guard<std::mutex> lock(size_class.mutex);
    if (size_class.unknown.empty() || !size_class.roomy.empty()) return kNullAddress;
    const Address extent = size_class.unknown.back();
    size_class.unknown.pop_back();
    return extent;
  };
  WantListing();
  std::unique_lock<std::mutex> maintenance_lock(maintenance, std::try_to_lock);
  if (maintenance_lock.owns_lock()) {
    // An error is for who needs all.
    for (uint64_t windows = 0;
         windows < kWindowsPerRefill && !all_listed() && HasNoneToFeed(size_class); ++windows) {
      if (!ListSome().ok()) break;
    }
    for (unsigned loaded = 0; loaded < kMapsPerRefill;) {
      const Address extent = take();
      if (extent == kNullAddress) break;
      if (FindFrame(extent) != nullptr) continue;
      const absl::StatusOr<ExtentFrame*> frame =
          WithoutExceptions([&] { return LoadFrame(extent, /*retired=*/false); });
      ++loaded;
      if (absl::IsResourceExhausted(frame.status())) {
        PutBack(&size_class.unknown, size_class, extent);
        break;
      }
      if (!frame.ok()) {
        NoteDamage(extent, frame.status());
      } else if (*frame == nullptr) {
        PutBack(&size_class.underived, size_class, extent);
      }
    }
  }
  std::lock_guard<std::mutex> lock(size_class.mutex);
  if (!size_class.roomy.empty()) return;
  if (size_class.underived.empty() && size_class.unknown.empty()) return;
  {
    std::lock_guard<std::mutex> wanted_lock(wanted_mutex);
    if (std::find(derive_wanted.begin(), derive_wanted.end(), class_number) ==
        derive_wanted.end()) {
      derive_wanted.push_back(class_number);
    }
  }
  worker.Call(this, std::chrono::milliseconds(0));
}

absl::StatusOr<bool> Space::Impl::IsSlotLive(const ExtentFrame& frame, uint32_t slot) {
  const Address address = frame.SlotAddress(slot);
  const SlotKind kind = SlotKindOf(frame.layout().size_class);
  if (!IsPlausible(*pool, kind, address, frame.layout().slot_size_bytes)) return false;
  absl::StatusOr<bool> live = oracle->IsLive(kind, address);
  if (live.ok() || absl::IsResourceExhausted(live.status())) return live;
  return true;  // Damage: better a leak than a slot used twice.
}

// A frame with every slot used that the index refers to at some moment of the call. Null: the
// extent has a frame, or is gone, or we are stopping.
absl::StatusOr<ExtentFrame*> Space::Impl::ScanExtent(Address extent) {
  const absl::StatusOr<dax::Run> run = FindExtent(extent >> dax::kPageShift);
  if (!run.ok()) return run.status();
  if (IsHeaderLost(*run)) return LostHeaderError(extent);
  const absl::StatusOr<SlotLayout> layout = CheckExtent(*pool, *run);
  if (!layout.ok()) return layout.status();
  auto frame = std::make_unique<ExtentFrame>(*run, *layout);
  frame->changed.store(true, std::memory_order_relaxed);
  const uint64_t media_events = pool->media_events();
  for (uint32_t slot = 0; slot < frame->slot_count(); ++slot) {
    if (stopping.load(std::memory_order_relaxed)) return nullptr;
    const absl::StatusOr<bool> live = IsLostSlot(*frame, slot) ? true : IsSlotLive(*frame, slot);
    if (!live.ok()) return live.status();
    if (*live) frame->SetUsed(slot);
  }
  // A slot, or a leaf that refers to one, may have looked empty since it was lost.
  if (pool->media_events() != media_events) {
    return absl::DataLossError("pages were lost while its slots were looked at");
  }
  const absl::Status status = InsertFrame(frame.get());
  if (!status.ok()) return status;
  return frame.release();
}

// Gives extents their frames. A slot that a scan finds dead may have been unlinked a moment ago:
// its readers may still be there and its Retire may still come. So before such a slot may be handed
// out, (1) a grace period: whoever unlinked it has called Retire, since both lie in one read
// section; (2) everything retired is collected, then (3) a second grace period and FreeRetired,
// which passes over slots already found dead. A Retire that comes later is for a slot that the scan
// found live.
absl::Status Space::Impl::Derive(const std::vector<Address>& extents) {
  std::vector<ExtentFrame*> scanned;
  scanned.reserve(extents.size());
  absl::Status status = WithoutExceptions([&] { return ScanExtents(extents, &scanned); });
  if (scanned.empty()) return status;
  // Completes the leaves' FlushInherited, too: every processor passes a full barrier.
  rcu::Synchronize();
  absl::Status inherited = WithoutExceptions([&] { return MakeInheritedDurable(scanned); });
  if (!inherited.ok()) {
    for (ExtentFrame* frame : scanned) {
      EraseFrame(frame);
      rcu::Retire(frame);
    }
    return inherited;
  }
  RetireRound();  // Finding nothing retired it waits for nothing: then (1) was enough.
  if (writeback.load(std::memory_order_relaxed) != nullptr) {
    const absl::Status stamped = WithoutExceptions([&] { return StampScanned(scanned); });
    // Nobody allocates from them in this session, which has lost its medium.
    if (!stamped.ok()) return stamped;
  }
  for (ExtentFrame* frame : scanned) {
    // A pin may show any slot found dead. A slab that can't be held is not used in this session.
    const bool in_pieces = pool->HasLostPages() && !LostPagesOf(*pool, frame->run()).empty();
    const bool must_hold = frame->is_large() || in_pieces || IsPinned(*frame, 0);
    const bool usable = !must_hold || HoldFreeSlots(frame).ok();
    for (uint32_t slot = 0; !must_hold && slot < frame->slot_count(); ++slot) {
      if (!frame->IsUsed(slot)) StampDead(*frame, slot);
    }
    if (usable && !frame->is_large()) Attach(frame);
  }
  FreeHeld();
  return status;
}

// Gives extents that have no frame theirs. `scanned`: those whose saved map did not count.
absl::Status Space::Impl::ScanExtents(const std::vector<Address>& extents,
                                      std::vector<ExtentFrame*>* scanned) {
  for (const Address extent : extents) {
    if (FindFrame(extent) != nullptr || damaged.count(extent) != 0) continue;
    absl::StatusOr<ExtentFrame*> frame = LoadFrame(extent, /*retired=*/false);
    if (frame.ok() && *frame == nullptr) {
      const absl::StatusOr<dax::Run> run = FindExtent(extent >> dax::kPageShift);
      if (!run.ok() || !run->live || run->offset() != extent) continue;  // Gone since.
      if (oracle == nullptr) {
        return absl::FailedPreconditionError(absl::StrCat(
            "the free slots of the extent at pool offset ", extent,
            " are not known and there is no index to ask: set a liveness oracle first"));
      }
      frame = ScanExtent(extent);
      if (frame.ok() && *frame != nullptr) scanned->push_back(*frame);
    }
    if (absl::IsResourceExhausted(frame.status())) return frame.status();
    NoteDamage(extent, frame.status());
  }
  return absl::OkStatus();
}

// The process that died may not have come to the msync, or the flush, of what it unlinked and of
// the runs that it committed.
absl::Status Space::Impl::MakeInheritedDurable(const std::vector<ExtentFrame*>& scanned) {
  if (pool->media().media_class == dax::MediaClass::kPageCache) {
    if (synced_since_open) return absl::OkStatus();
    absl::Status status = pool->Sync();
    synced_since_open = status.ok();
    return status;
  }
  std::vector<dax::Run> runs;
  for (const ExtentFrame* frame : scanned) runs.push_back(frame->run());
  return pool->CommitRuns(runs);
}

// kResourceExhausted: some are still free.
absl::Status Space::Impl::HoldFreeSlots(ExtentFrame* frame) {
  return WithoutExceptions([&] {
    for (uint32_t slot = 0; slot < frame->slot_count(); ++slot) {
      if (frame->IsUsed(slot)) continue;
      Hold(frame, slot);
      frame->SetUsed(slot);
    }
    return absl::OkStatus();
  });
}

absl::Status Space::Impl::DeriveSome(uint16_t class_number, size_t most_extents) {
  if (oracle == nullptr) return absl::OkStatus();
  SizeClass& size_class = classes[class_number];
  std::vector<Address> extents;
  extents.reserve(most_extents);
  {
    std::lock_guard<std::mutex> lock(size_class.mutex);
    for (std::vector<Address>* list : {&size_class.underived, &size_class.unknown}) {
      while (extents.size() < most_extents && !list->empty()) {
        extents.push_back(list->back());
        list->pop_back();
      }
    }
  }
  absl::Status status = WithoutExceptions([&] { return Derive(extents); });
  if (status.ok()) return status;
  for (const Address extent : extents) PutBack(&size_class.underived, size_class, extent);
  return status;
}

absl::Status Space::Impl::DeriveAll() {
  absl::Status status = ListAll();
  if (!status.ok()) return status;
  for (size_t number = 0; number < classes.size(); ++number) {
    SizeClass* const made = classes.Find(number);
    if (made == nullptr) continue;
    SizeClass& size_class = *made;
    std::vector<Address> extents;
    {
      std::lock_guard<std::mutex> lock(size_class.mutex);
      extents.reserve(size_class.underived.size() + size_class.unknown.size());
      for (std::vector<Address>* list : {&size_class.underived, &size_class.unknown}) {
        extents.insert(extents.end(), list->begin(), list->end());
        list->clear();
      }
    }
    status = WithoutExceptions([&] { return Derive(extents); });
    if (!status.ok()) {
      for (const Address extent : extents) PutBack(&size_class.underived, size_class, extent);
      return status;
    }
  }
  return absl::OkStatus();
}

}  // namespace daxkv::kv
