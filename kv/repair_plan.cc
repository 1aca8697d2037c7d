#include "kv/repair_plan.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kv/batch_table.h"
#include "kv/extent_header.h"

namespace daxkv::kv {
namespace {

constexpr size_t kMostOfKey = 64;

std::string Quoted(std::string_view key) {
  return absl::StrCat("\"", absl::CHexEscape(std::string(key.substr(0, kMostOfKey))),
                      key.size() > kMostOfKey ? "\"..." : "\"");
}

std::string RangeText(std::string_view from, std::optional<std::string_view> to) {
  return absl::StrCat("keys from ", from.empty() ? "the first" : Quoted(from), " to ",
                      to.has_value() ? "below " + Quoted(*to) : "the last");
}

}  // namespace

std::string Findings::InKeyspace(std::string line) const {
  return keyspace_.empty() ? line : absl::StrCat("keyspace ", Quoted(keyspace_), ": ", line);
}

void Findings::LostRecord(std::optional<std::string_view> key, Address address) {
  ++report_.records_lost;
  if (key.has_value()) {
    if (keyspace_.empty()) {
      Add(&report_.lost_keys, std::string(*key));
    } else {
      Add(&report_.lost_keys_of_keyspaces, {keyspace_, std::string(*key)});
    }
    LostElse(
        absl::StrCat("key ", Quoted(*key), ": its record at pool offset ", address, " is damaged"));
  } else {
    LostElse(absl::StrCat("the record at pool offset ", address, " is damaged, key and all"));
  }
}

void Findings::LostRange(std::string_view from, std::optional<std::string_view> to,
                         std::string_view why) {
  RepairReport::LostRange range;
  range.keyspace = keyspace_;
  range.from = std::string(from);
  if (to.has_value()) range.to = std::string(*to);
  Add(&report_.lost_ranges, std::move(range));
  LostElse(absl::StrCat(RangeText(from, to),
                        ": some may be lost: ", absl::string_view(why.data(), why.size())));
}

// ---- Leaves ----

bool RepairPlan::IsWithin(size_t i, std::string_view key) const {
  if (key < tree_.leaves()[i].fence) return false;
  const std::optional<std::string_view> upper = tree_.UpperOf(i);
  return !upper.has_value() || key < *upper;
}

RepairPlan::LeafJudgement RepairPlan::LookAt(size_t i) const {
  const OldLeaf& leaf = tree_.leaves()[i];
  LeafJudgement judged;
  for (const OldSlot& slot : tree_.SlotsOf(leaf)) {
    if (slot.record.has_value()) {
      if (IsWithin(i, slot.record->key)) {
        judged.entries.push_back({slot.record->key, slot.record->address, slot.record->sequence});
        continue;
      }
      // A split that a crash cut short has moved it.
      if (leaf.split_unfinished && slot.record->key >= leaf.fence) continue;
    }
    BadSlot bad = {slot.word, std::nullopt, false};
    const std::optional<Survey::Place> place = survey_.Find(SlotAddress(slot.word));
    if (place.has_value() && place->extent->kind() == SlotKind::kRecord &&
        place->state() != SlotState::kIntact) {
      const std::optional<RecordView> claim = survey_.Record(*place->extent, place->slot);
      const bool of_tag =
          claim.has_value() && KeyTag(claim->key) == SlotTag(slot.word) && IsWithin(i, claim->key);
      if (of_tag) bad.claim = claim;
      bad.damaged_record = of_tag || place->state() == SlotState::kDamaged;
    }
    judged.bad.push_back(bad);
  }
  std::sort(judged.entries.begin(), judged.entries.end(), [](const Entry& a, const Entry& b) {
    return a.key != b.key ? a.key < b.key : a.sequence > b.sequence;
  });
  return judged;
}

void RepairPlan::JudgeLeaf(size_t i) {
  OldLeaf& leaf = tree_.leaves()[i];
  leaf.slots_unknown = leaf.doubtful;
  const LeafJudgement judged = LookAt(i);
  for (const Entry& entry : judged.entries) {
    const std::optional<Survey::Place> place = survey_.Find(entry.address);
    place->extent->referenced[place->slot] = true;
    key_size_bytes_ += entry.key.size();
  }
  most_records_ += judged.entries.size();
  const auto complain = [&](std::string_view what) {
    Fault(absl::StrCat("index leaf at pool offset ", leaf.address, ": ",
                       absl::string_view(what.data(), what.size())));
  };
  for (const BadSlot& bad : judged.bad) {
    complain(absl::StrCat("a slot leads to pool offset ", SlotAddress(bad.word),
                          ", where no intact record of its tag and of the leaf's keys lies"));
    if (bad.damaged_record) bad_targets_.insert(SlotAddress(bad.word));
    leaf.doubtful = true;
  }
  for (size_t k = 1; k < judged.entries.size(); ++k) {
    if (judged.entries[k - 1].key == judged.entries[k].key) complain("two slots hold one key");
  }
  for (const OldSlot& slot : tree_.SlotsOf(leaf)) {
    if (slot.misplaced && slot.record.has_value()) {
      complain("a slot lies where its tag can't have put it");
      leaf.doubtful = true;
    }
  }
  // With its header gone, slots that are all well say that the rest is well, too.
  if (!leaf.header_intact && (!judged.bad.empty() || judged.entries.empty())) {
    leaf.doubtful = leaf.slots_unknown = true;
  }
}

void RepairPlan::JudgeLeaves(size_t faults_elsewhere) {
  needs_new_index_ = findings_.report().rebuilt.size() > faults_elsewhere;
  for (size_t i = 0; i < tree_.leaves().size(); ++i) JudgeLeaf(i);
}

void RepairPlan::JudgeRest(const uint64_t* batch_words, absl::Span<Survey* const> surveys) {
  surveys_ = surveys;
  JudgeBatches(batch_words);
  complete_ = survey_.hopeless().empty();
  for (const SurveyedExtent& extent : survey_.extents()) {
    if (extent.kind() == SlotKind::kRecord && !extent.map_known) complete_ = false;
  }
  // What is in use for certain may show that a leaf has lost a slot.
  FindCandidates(/*maps_known=*/true);
  FindCandidates(/*maps_known=*/false);
  std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
    return a.leaf != b.leaf ? a.leaf < b.leaf : a.address < b.address;
  });
  std::stable_sort(claims_.begin(), claims_.end(),
                   [](const Claim& a, const Claim& b) { return a.leaf < b.leaf; });
}

// ---- Batches ----

std::optional<Survey::Place> RepairPlan::FindAnywhere(Address address) const {
  for (Survey* survey : surveys_) {
    if (std::optional<Survey::Place> place = survey->Find(address)) return place;
  }
  return std::nullopt;
}

std::optional<RecordView> RepairPlan::IntactAnywhere(Address address) const {
  for (Survey* survey : surveys_) {
    if (std::optional<RecordView> record = survey->IntactRecord(address)) return record;
  }
  return std::nullopt;
}

bool RepairPlan::IsOfDropped(Address address) const {
  const absl::StatusOr<dax::Run> run = survey_.pool().FindRun(address >> dax::kPageShift);
  if (!run.ok() || !UseOf(*run).is_extent()) return false;
  const KeyspaceId keyspace = UseOf(*run).keyspace;
  return std::none_of(surveys_.begin(), surveys_.end(),
                      [&](const Survey* survey) { return survey->keyspace() == keyspace; });
}

void RepairPlan::JudgeBatches(const uint64_t* words) {
  for (unsigned word = 0; word < kBatchTableWords; ++word) {
    if (words[word] == 0) continue;
    const Address address = words[word] & kAddressMask;
    const std::optional<RecordView> batch = IntactAnywhere(address);
    uint64_t count = 0;
    if (words[word] == BatchTable::Seal(word, address) && batch.has_value() &&
        batch->kind == kStoresRecord) {
      continue;  // The stores are made.
    }
    const bool readable = words[word] == BatchTable::Seal(word, address) && batch.has_value() &&
                          batch->kind == kBatchRecord && batch->key.size() == sizeof(count);
    if (readable) std::memcpy(&count, batch->key.data(), sizeof(count));
    if (!readable || batch->value.size() != count * sizeof(Address)) {
      if (survey_.keyspace() != kDefaultKeyspace) continue;  // That one tells of it.
      Fault(absl::StrCat("batch table: word ", word, " leads to no intact batch record"));
      findings_.LostElse(absl::StrCat("the atomic batch of word ", word,
                                      " of the batch table, which a crash cut short, can't be "
                                      "read: it may be half applied"));
      ++findings_.report().batches_dropped;
      continue;
    }
    JudgeBatch(*batch);
  }
}

void RepairPlan::JudgeBatch(const RecordView& batch) {
  std::vector<Address> addresses(batch.value.size() / sizeof(Address));
  std::memcpy(addresses.data(), batch.value.data(), batch.value.size());
  std::map<std::string_view, Override> overrides;
  size_t unreadable = 0, damaged = 0;
  bool applied = false;
  for (const Address address : addresses) {
    of_batches_.insert(address);
    const std::optional<Survey::Place> place = FindAnywhere(address);
    if (!place.has_value() && IsOfDropped(address)) continue;
    const bool ours = survey_.Find(address).has_value();
    if (place.has_value() && place->extent->referenced[place->slot]) applied = true;
    const std::optional<RecordView> record = IntactAnywhere(address);
    const bool intact = record.has_value() && record->sequence == batch.sequence &&
                        (record->kind == kValueRecord || record->kind == kDeleteRecord);
    if (intact) {
      if (!ours) continue;
      const bool deletes = record->kind == kDeleteRecord;
      overrides[record->key] = {deletes ? kNullAddress : address, batch.sequence, false};
      key_size_bytes_ += record->key.size();
      continue;
    }
    ++damaged;
    const std::optional<RecordView> claim = place.has_value() && !IsNode(place->extent->kind())
                                                ? survey_.Record(*place->extent, place->slot)
                                                : std::nullopt;
    if (claim.has_value() && claim->sequence == batch.sequence) {
      if (ours) overrides[claim->key] = {address, batch.sequence, /*lost=*/true};
    } else {
      ++unreadable;
    }
  }
  of_batches_.insert(batch.address);
  // One of the keyspaces tells of it.
  const bool tells = survey_.keyspace() == kDefaultKeyspace;
  if (damaged == 0) {
    // An open would finish it; a new index has it finished.
    if (tells) ++findings_.report().batches_finished;
  } else if (!tells) {
    if (!applied) return;
  } else {
    Fault(absl::StrCat("batch record at pool offset ", batch.address, ": ", damaged, " of its ",
                       addresses.size(), " records are damaged"));
    ++(applied ? findings_.report().batches_finished : findings_.report().batches_dropped);
    findings_.LostElse(absl::StrCat(
        "the atomic batch at pool offset ", batch.address, ", which a crash cut short, ",
        applied ? absl::StrCat("was applied in part; it is finished but for ", damaged,
                               " damaged records, ", unreadable, " of them of unknown keys")
                : "was not applied, and is dropped: some of its records are damaged"));
    if (!applied) return;
  }
  most_records_ += overrides.size();
  overrides_.merge(overrides);
}

// ---- Records that nothing refers to ----

void RepairPlan::FindCandidates(bool maps_known) {
  for (const SurveyedExtent& extent : survey_.extents()) {
    if (extent.kind() != SlotKind::kRecord || extent.map_known != maps_known) continue;
    for (uint32_t slot = 0; slot < extent.layout.slot_count; ++slot) {
      if (!extent.referenced[slot] && survey_.MayBeUsed(extent, slot)) ConsiderSlot(extent, slot);
    }
  }
}

bool RepairPlan::IsSuperseded(size_t leaf, const RecordView& record) const {
  for (const Entry& entry : LookAt(leaf).entries) {
    if (entry.key == record.key) return entry.sequence >= record.sequence;
  }
  return false;
}

void RepairPlan::ConsiderSlot(const SurveyedExtent& extent, uint32_t slot) {
  const Address address = extent.SlotAddress(slot);
  if (bad_targets_.count(address) != 0 || of_batches_.count(address) != 0) return;
  const SlotState state = extent.states[slot];
  // Without a map, a blank slot is as good as free.
  if (state == SlotState::kEmpty && !extent.map_known) return;
  const std::optional<RecordView> record = survey_.Record(extent, slot);
  if (state == SlotState::kIntact) {
    // Those of a batch that was not committed have no number.
    if (record->kind != kValueRecord || record->sequence == 0) return;
    const size_t leaf = tree_.LeafOf(record->key);
    OldLeaf& covering = tree_.leaves()[leaf];
    if (!covering.doubtful) {
      if (!extent.map_known || IsSuperseded(leaf, *record)) return;
      Fault(absl::StrCat("index leaf at pool offset ", covering.address,
                         ": the record at pool offset ", address,
                         " is in use, and no slot leads to it"));
      covering.doubtful = true;
    }
    candidates_.push_back({leaf, address, extent.map_known});
    ++most_records_;
    key_size_bytes_ += record->key.size();
    return;
  }
  const size_t leaf = record.has_value() ? tree_.LeafOf(record->key) : 0;
  const bool doubtful = record.has_value() && tree_.leaves()[leaf].doubtful;
  if (doubtful) claims_.push_back({leaf, *record});
  if (!extent.map_known) return;
  complete_ = false;
  if (doubtful) return;
  // Its slot is gone from a leaf that looks well.
  Fault(absl::StrCat("the record at pool offset ", address,
                     " is in use and damaged, and no slot leads to it"));
  findings_.LostRecord(std::nullopt, address);
  findings_.LostRange({}, std::nullopt, "one whose record is damaged and whose leaf is not known");
}

// ---- The new index ----

absl::Status RepairPlan::ForEach(absl::FunctionRef<absl::Status(std::string_view, Address)> visit) {
  for (size_t i = 0; i < tree_.leaves().size(); ++i) {
    absl::Status visited = VisitLeaf(i, visit);
    if (!visited.ok()) return visited;
  }
  return absl::OkStatus();
}

// Those that may be old versions are left out where the newest one is known to be damaged.
void RepairPlan::AddCandidates(size_t i, const LeafJudgement& judged, std::vector<Entry>* entries) {
  const auto by_leaf = [](const auto& item, size_t leaf) { return item.leaf < leaf; };
  const auto newest_is_damaged = [&](std::string_view key) {
    for (const BadSlot& bad : judged.bad) {
      if (!bad.damaged_record) continue;
      if (bad.claim.has_value() ? bad.claim->key == key : KeyTag(key) == SlotTag(bad.word)) {
        return true;
      }
    }
    auto claim = std::lower_bound(claims_.begin(), claims_.end(), i, by_leaf);
    for (; claim != claims_.end() && claim->leaf == i; ++claim) {
      if (claim->record.key == key) return true;
    }
    return false;
  };
  auto candidate = std::lower_bound(candidates_.begin(), candidates_.end(), i, by_leaf);
  for (; candidate != candidates_.end() && candidate->leaf == i; ++candidate) {
    const RecordView record = *survey_.IntactRecord(candidate->address);
    if (!candidate->certain && newest_is_damaged(record.key)) {
      rejected_.push_back(candidate->address);
      continue;
    }
    entries->push_back({record.key, record.address, record.sequence, /*recovered=*/true});
  }
}

absl::Status RepairPlan::VisitLeaf(
    size_t i, absl::FunctionRef<absl::Status(std::string_view, Address)> visit) {
  const LeafJudgement judged = LookAt(i);
  std::vector<Entry> entries = judged.entries;
  AddCandidates(i, judged, &entries);
  const std::optional<std::string_view> upper = tree_.UpperOf(i);
  const auto first_override = overrides_.lower_bound(tree_.leaves()[i].fence);
  const auto end_override = upper.has_value() ? overrides_.lower_bound(*upper) : overrides_.end();
  for (auto it = first_override; it != end_override; ++it) {
    entries.push_back(
        {it->first, it->second.lost ? kNullAddress : it->second.address, it->second.sequence});
  }
  // Of one version found twice, the one that a leaf refers to.
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return a.key != b.key ? a.key < b.key : a.sequence > b.sequence;
  });
  std::vector<Entry> kept;
  for (size_t k = 0; k < entries.size(); ++k) {
    const bool newest = k == 0 || entries[k - 1].key != entries[k].key;
    if (newest) {
      kept.push_back(entries[k]);
    } else if (entries[k].address != kNullAddress && entries[k].address != kept.back().address) {
      rejected_.push_back(entries[k].address);
    }
  }
  for (const Entry& entry : kept) {
    if (entry.address == kNullAddress) continue;  // Deleted by a batch.
    absl::Status visited = visit(entry.key, entry.address);
    if (!visited.ok()) return visited;
    ++findings_.report().records;
    if (entry.recovered) ++findings_.report().records_recovered;
  }
  for (auto it = first_override; it != end_override; ++it) {
    if (it->second.lost) findings_.LostRecord(it->first, it->second.address);
  }
  TellLosses(i, judged, kept);
  return absl::OkStatus();
}

void RepairPlan::TellLosses(size_t i, const LeafJudgement& judged, const std::vector<Entry>& kept) {
  const OldLeaf& leaf = tree_.leaves()[i];
  if (!leaf.doubtful) return;
  const auto is_kept = [&](std::string_view key) {
    const auto at = std::lower_bound(kept.begin(), kept.end(), key,
                                     [](const Entry& e, std::string_view k) { return e.key < k; });
    return at != kept.end() && at->key == key;
  };
  const auto tell = [&](const RecordView& record) {
    if (!is_kept(record.key)) findings_.LostRecord(record.key, record.address);
  };
  size_t unknown = 0;
  for (const BadSlot& bad : judged.bad) {
    if (bad.claim.has_value()) {
      tell(*bad.claim);
      continue;
    }
    // Its record may have been found again.
    const bool found = std::any_of(kept.begin(), kept.end(), [&](const Entry& entry) {
      return entry.recovered && KeyTag(entry.key) == SlotTag(bad.word);
    });
    if (found || (complete_ && !bad.damaged_record)) continue;
    ++unknown;
    findings_.LostRecord(std::nullopt, SlotAddress(bad.word));
  }
  auto claim = std::lower_bound(claims_.begin(), claims_.end(), i,
                                [](const Claim& c, size_t at) { return c.leaf < at; });
  for (; claim != claims_.end() && claim->leaf == i; ++claim) tell(claim->record);
  if (unknown > 0) {
    findings_.LostRange(leaf.fence, tree_.UpperOf(i),
                        absl::StrCat(unknown, " of unknown keys are"));
  } else if (leaf.slots_unknown && !complete_) {
    findings_.LostRange(leaf.fence, tree_.UpperOf(i),
                        "the leaf is damaged, and not all that was in use can be known");
  }
}

}  // namespace daxkv::kv
