// The commands about the store as a whole: info, check, compact.
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "kv/db.h"
#include "kv/repair.h"
#include "nlohmann/json.hpp"
#include "tools/commands.h"
#include "tools/store.h"
#include "tools/text.h"

namespace daxkv::tools {
namespace {

using Json = nlohmann::ordered_json;

std::string_view ShapeName(dax::PoolShape shape) {
  return shape == dax::PoolShape::kDirectory ? "directory" : "fixed";
}

uint64_t HoleBytes(const dax::PoolStats& pool) {
  return pool.file_size_bytes > pool.file_blocks_bytes
             ? pool.file_size_bytes - pool.file_blocks_bytes
             : 0;
}

uint64_t QuarantinedBytes(const dax::PoolStats& pool) {
  return pool.quarantined_pages * dax::kPageSizeBytes;
}

Json ByOrder(const uint64_t (&counts)[dax::kHugeOrder + 1]) {
  Json array = Json::array();
  for (const uint64_t count : counts) array.push_back(count);
  return array;
}

Json PinsToJson(const dax::PinReport& pins) {
  Json json = {{"pins", pins.pins},
               {"extents", pins.pinned_extents},
               {"tracked", pins.tracked},
               {"longest_busy", Json::array()},
               {"holders", Json::array()}};
  for (const dax::PinnedExtent& extent : pins.longest_busy) {
    json["longest_busy"].push_back({{"first_page", extent.first_index},
                                    {"order", extent.order},
                                    {"pins", extent.pins},
                                    {"seconds", absl::ToDoubleSeconds(extent.busy_for)}});
  }
  for (const dax::PinHolder& holder : pins.holders) {
    json["holders"].push_back({{"thread", holder.thread},
                               {"name", holder.thread_name},
                               {"pins", holder.pins},
                               {"seconds", absl::ToDoubleSeconds(holder.oldest)}});
  }
  return json;
}

Json HugeToJson(const dax::HugePages& pages) {
  // Where the kernel does not count, no number is better than a wrong one.
  const auto counted = [&](uint64_t bytes) { return pages.counted ? Json(bytes) : Json(nullptr); };
  return {{"mapped_bytes", pages.mapped_bytes},
          {"resident_bytes", counted(pages.resident_bytes)},
          {"huge_bytes", counted(pages.huge_bytes())}};
}

Json KeyspacesToJson(const kv::Info& info) {
  Json all = Json::array();
  for (const kv::KeyspaceInfo& keyspace : info.keyspaces) {
    all.push_back({{"name", Escaped(keyspace.name)},
                   {"records", keyspace.records},
                   {"keys_and_values_bytes", keyspace.key_value_size_bytes},
                   {"extents_bytes", keyspace.size_bytes}});
  }
  return all;
}

// One line for each.
std::string KeyspacesText(const kv::Info& info) {
  std::string text = absl::StrCat(info.keyspaces.size());
  if (info.keyspaces_dropping != 0) {
    absl::StrAppend(&text, ", and ", info.keyspaces_dropping, " dropped whose space comes back");
  }
  for (const kv::KeyspaceInfo& keyspace : info.keyspaces) {
    absl::StrAppendFormat(&text, "\n%-15s %s: %s records, %s of keys and values, %s of extents", "",
                          Escaped(keyspace.name), Grouped(keyspace.records),
                          HumanBytes(keyspace.key_value_size_bytes),
                          HumanBytes(keyspace.size_bytes));
  }
  return text;
}

Json ToJson(const kv::Info& info) {
  const dax::PoolStats& pool = info.dax.pool;
  const dax::MappingStats& mapping = info.dax.mapping;
  return Json{
      {"path", Escaped(info.path)},
      {"shape", ShapeName(info.shape)},
      {"media",
       {{"class", dax::MediaClassName(info.media.media_class)},
        {"forced", info.media.forced},
        {"file_system", info.media.file_system},
        {"durability", dax::DurabilityName(info.media.durability)},
        {"promise", dax::MediaPromise(info.media)}}},
      {"format_version", info.format_version},
      {"open_epoch", info.open_epoch},
      {"was_clean", info.was_clean},
      {"records", info.records},
      {"bytes",
       {{"keys_and_values", info.key_value_size_bytes},
        {"slab_extents", info.slab_size_bytes},
        {"large_extents", info.large_size_bytes},
        {"files", pool.file_size_bytes},
        {"blocks", pool.file_blocks_bytes},
        {"holes", pool.has_holes ? Json(HoleBytes(pool)) : Json()},
        {"quarantined", QuarantinedBytes(pool)}}},
      {"keyspaces", KeyspacesToJson(info)},
      {"keyspaces_dropping", info.keyspaces_dropping},
      {"index",
       {{"height", info.index_height},
        {"leaves", info.leaves},
        {"inner_nodes", info.inner_nodes},
        {"view_bytes", info.index_view_size_bytes}}},
      {"pages",
       {{"segments", pool.segments},
        {"total", pool.segment_pages},
        {"live", pool.live_pages},
        {"reserved", pool.reserved_pages},
        {"free", pool.free_pages},
        {"largest_free_run", pool.largest_free_run_pages},
        {"live_extents_by_order", ByOrder(info.live_extents_by_order)},
        {"fragmentation", info.dax.fragmentation()},
        {"free_runs_by_order", ByOrder(pool.free_runs_by_order)}}},
      {"mapping",
       {{"entries", mapping.entries},
        {"entries_by_order", ByOrder(mapping.entries_by_order)},
        {"pages", mapping.pages},
        {"dirty_entries", mapping.dirty_entries},
        {"locked_entries", mapping.locked_entries},
        {"waiters", mapping.waiters},
        {"waits", mapping.waits},
        {"faults_no_page_by_order", ByOrder(mapping.faults_no_page_by_order)},
        {"faults_fallback_by_order", ByOrder(mapping.faults_fallback_by_order)}}},
      {"memory", HugeToJson(info.dax.pages)},
      {"pins", PinsToJson(info.dax.pins)},
  };
}

// "order 0 (4 KiB): 3, order 9 (2 MiB): 12"; "none" if there is none.
std::string OrdersText(const uint64_t (&counts)[dax::kHugeOrder + 1]) {
  std::string text;
  for (unsigned order = 0; order <= dax::kHugeOrder; ++order) {
    if (counts[order] == 0) continue;
    absl::StrAppendFormat(&text, "%sorder %d (%s): %s", text.empty() ? "" : ", ", order,
                          HumanBytes(dax::kPageSizeBytes << order), Grouped(counts[order]));
  }
  return text.empty() ? "none" : text;
}

// "NOPAGE order 4 (64 KiB): 6; FALLBACK none": what faults of each wanted order came to.
std::string FaultsText(const dax::MappingStats& mapping) {
  return absl::StrCat("NOPAGE ", OrdersText(mapping.faults_no_page_by_order), "; FALLBACK ",
                      OrdersText(mapping.faults_fallback_by_order));
}

std::string MemoryText(const dax::HugePages& pages) {
  const std::string mapped = HumanBytes(pages.mapped_bytes) + " mapped";
  if (!pages.counted) {
    return mapped + "; by page tables, and by huge pages: not counted by the kernel on DAX";
  }
  return absl::StrFormat("%s, %s in page tables, of it %s by huge pages", mapped,
                         HumanBytes(pages.resident_bytes), HumanBytes(pages.huge_bytes()));
}

std::string PinsText(const dax::PinReport& pins) {
  std::string text =
      absl::StrFormat("%s on %s extents", Grouped(pins.pins), Grouped(pins.pinned_extents));
  for (const dax::PinnedExtent& extent : pins.longest_busy) {
    absl::StrAppendFormat(&text, "\n%-15s page %d (order %d): %d for %s", "", extent.first_index,
                          extent.order, extent.pins, absl::FormatDuration(extent.busy_for));
  }
  for (const dax::PinHolder& holder : pins.holders) {
    absl::StrAppendFormat(&text, "\n%-15s thread %d (%s): %d, the oldest for %s", "", holder.thread,
                          holder.thread_name, holder.pins, absl::FormatDuration(holder.oldest));
  }
  return text;
}

std::string ToText(const kv::Info& info) {
  const dax::PoolStats& pool = info.dax.pool;
  std::string text;
  const auto line = [&text](std::string_view name, const std::string& value) {
    absl::StrAppendFormat(&text, "%-15s %s\n", name, value);
  };
  line("pool", absl::StrFormat("%s (%s)", Escaped(info.path), ShapeName(info.shape)));
  line("medium", absl::StrFormat("%s on %s%s", dax::MediaClassName(info.media.media_class),
                                 info.media.file_system,
                                 info.media.forced ? ", forced by PMEM_IS_PMEM_FORCE" : ""));
  line("promise", std::string(dax::MediaPromise(info.media)));
  if (info.writeback.has_value()) {
    line("writebacks",
         absl::StrFormat("%d since the open, the last took %s", info.writeback->completed,
                         absl::FormatDuration(info.writeback->last_took)));
  }
  if (info.power_cut.has_value()) {
    line("power cut",
         absl::StrFormat("this open built the index anew: %s records kept, %s stamped "
                         "dead, %s slots torn, %d batches and %d extents dropped",
                         Grouped(info.power_cut->records), Grouped(info.power_cut->records_stamped),
                         Grouped(info.power_cut->slots_torn), info.power_cut->batches_dropped,
                         info.power_cut->extents_dropped));
  }
  line("format version", absl::StrCat(info.format_version));
  line("open epoch",
       absl::StrCat(info.open_epoch, info.was_clean ? ", after a clean close"
                                                    : ", after a close that was not clean"));
  line("records", Grouped(info.records));
  line("keys + values", HumanBytes(info.key_value_size_bytes));
  line("slab extents", HumanBytes(info.slab_size_bytes));
  line("large extents", HumanBytes(info.large_size_bytes));
  if (!info.keyspaces.empty() || info.keyspaces_dropping != 0) {
    line("keyspaces", KeyspacesText(info));
  }
  line("index", absl::StrFormat("height %d, %s leaves, %s inner nodes, %s of DRAM views",
                                info.index_height, Grouped(info.leaves), Grouped(info.inner_nodes),
                                HumanBytes(info.index_view_size_bytes)));
  line("files", absl::StrFormat("%s, blocks %s, holes %s", HumanBytes(pool.file_size_bytes),
                                HumanBytes(pool.file_blocks_bytes),
                                pool.has_holes ? HumanBytes(HoleBytes(pool))
                                               : "impossible: free pages are reused inside"));
  line("pages", absl::StrFormat("%s in %d segments: %s live, %s reserved, %s free (longest run %s)",
                                Grouped(pool.segment_pages), pool.segments,
                                Grouped(pool.live_pages), Grouped(pool.reserved_pages),
                                Grouped(pool.free_pages), Grouped(pool.largest_free_run_pages)));
  line("live extents", OrdersText(info.live_extents_by_order));
  line("free runs", OrdersText(pool.free_runs_by_order));
  line("fragmentation", absl::StrFormat("%.0f %% of the free pages are not in the longest free run",
                                        100 * info.dax.fragmentation()));
  line("entries", OrdersText(info.dax.mapping.entries_by_order));
  line("faults", FaultsText(info.dax.mapping));
  line("memory", MemoryText(info.dax.pages));
  line("pins", PinsText(info.dax.pins));
  if (pool.quarantined_pages != 0) {
    line("quarantined", HumanBytes(QuarantinedBytes(pool)) + " lost to media errors: see check");
  }
  return text;
}

}  // namespace

absl::Status PrintInfo(const StoreArgs& store, bool json) {
  return WithStore(store, IfMissing::kFail, [json](kv::Db& db) -> absl::Status {
    absl::StatusOr<kv::Info> info = db.GetInfo(/*count_bytes=*/true);
    if (!info.ok()) return info.status();
    const std::string text = json ? ToJson(*info).dump(2) + "\n" : ToText(*info);
    if (absl::Status status = WriteTo(stdout, text); !status.ok()) return status;
    return FlushTo(stdout);
  });
}

absl::Status Check(const StoreArgs& store) {
  return WithStore(store, IfMissing::kFail, [](kv::Db& db) -> absl::Status {
    absl::StatusOr<kv::CheckReport> report = db.Check();
    if (!report.ok()) return report.status();
    std::string text = absl::StrFormat(
        "verified %s records (%s of keys and values, every checksum), %s index nodes, %s fences,\n"
        "         %s slots in %s extents: each is reachable once, or free%s\n",
        Grouped(report->records), HumanBytes(report->record_size_bytes), Grouped(report->nodes),
        Grouped(report->fences), Grouped(report->slots), Grouped(report->extents),
        report->recovered_after_crash ? " (free slots derived anew after a crash)" : "");
    for (const std::string& fault : report->faults) absl::StrAppend(&text, "fault: ", fault, "\n");
    absl::StrAppend(&text, report->faults.empty() ? "clean\n" : "");
    if (absl::Status status = WriteTo(stdout, text); !status.ok()) return status;
    if (absl::Status status = FlushTo(stdout); !status.ok()) return status;
    if (report->faults.empty()) return absl::OkStatus();
    return absl::DataLossError(
        absl::StrCat(report->faults.size(), " faults; the first: ", report->faults.front()));
  });
}

absl::Status Repair(const StoreArgs& store) {
  // Whatever becomes of us from then on, these lines can't be had again.
  const auto tell_losses = [](const kv::RepairReport& report) {
    std::string text;
    for (const std::string& line : report.lost) absl::StrAppend(&text, "lost: ", line, "\n");
    WriteTo(stdout, text).IgnoreError();  // The next line meets it again.
    FlushTo(stdout).IgnoreError();
  };
  absl::StatusOr<kv::RepairReport> report = kv::Db::Repair(store.path, kv::Options(), tell_losses);
  if (!report.ok()) return report.status();
  std::string text;
  for (const std::string& line : report->rebuilt) absl::StrAppend(&text, "repaired: ", line, "\n");
  if (report->lists_cut) {
    absl::StrAppend(&text, "and more: each list is cut at ", kv::RepairReport::kMostLines,
                    " lines\n");
  }
  absl::StrAppendFormat(&text, "%s: %s records, %s of them found again by their checksums\n",
                        report->changed ? "repaired" : "nothing to repair",
                        Grouped(report->records), Grouped(report->records_recovered));
  if (absl::Status status = WriteTo(stdout, text); !status.ok()) return status;
  absl::Status checked = Check(store);
  if (!checked.ok() || report->lossless()) return checked;
  return absl::DataLossError(
      absl::StrCat("the store is whole again, but something was lost: ", report->lost.front()));
}

absl::Status Scrub(const StoreArgs& store) {
  return WithStore(store, IfMissing::kFail, [](kv::Db& db) -> absl::Status {
    absl::StatusOr<kv::ScrubReport> report = db.Scrub();
    if (!report.ok()) return report.status();
    std::string text = absl::StrFormat("verified the checksums of %s records (%s)\n",
                                       Grouped(report->records), HumanBytes(report->size_bytes));
    for (const std::string& fault : report->faults) absl::StrAppend(&text, "fault: ", fault, "\n");
    if (absl::Status status = WriteTo(stdout, text); !status.ok()) return status;
    if (absl::Status status = FlushTo(stdout); !status.ok()) return status;
    if (report->faults.empty()) return absl::OkStatus();
    return absl::DataLossError(
        absl::StrCat(report->faults.size(), " faults; the first: ", report->faults.front()));
  });
}

absl::Status Compact(const StoreArgs& store, bool order_by_key) {
  return WithStore(store, IfMissing::kFail, [order_by_key](kv::Db& db) -> absl::Status {
    kv::CompactOptions options;
    options.order_by_key = order_by_key;
    absl::StatusOr<kv::Info> before = db.GetInfo();
    if (!before.ok()) return before.status();
    absl::StatusOr<kv::CompactionResult> result = db.Compact(options);
    if (!result.ok()) return result.status();
    absl::StatusOr<kv::Info> after = db.GetInfo();
    if (!after.ok()) return after.status();
    const std::string text = absl::StrFormat(
        "freed %s extents (%s) and %s of spare blocks; %s kept by pins\n%s records "
        "moved, of these %s into the order of their keys\nblocks: %s before, %s after\n",
        Grouped(result->extents_freed), HumanBytes(result->size_bytes_freed),
        HumanBytes(result->trimmed_size_bytes), Grouped(result->extents_pinned),
        Grouped(result->records_moved), Grouped(result->records_ordered),
        HumanBytes(before->dax.pool.file_blocks_bytes),
        HumanBytes(after->dax.pool.file_blocks_bytes));
    if (absl::Status status = WriteTo(stdout, text); !status.ok()) return status;
    return FlushTo(stdout);
  });
}

}  // namespace daxkv::tools
