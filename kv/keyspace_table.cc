#include "kv/keyspace_table.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kv/record.h"
#include "kv/superblock.h"

namespace daxkv::kv {
namespace {

constexpr unsigned kSealShift = 48;
constexpr size_t kSealedSizeBytes = kSealShift / 8;
constexpr uint64_t kTablePages = kKeyspaceTableSizeBytes >> dax::kPageShift;
constexpr size_t kNameBegin = offsetof(KeyspaceEntry, name_size_bytes);
constexpr size_t kNameEnd = offsetof(KeyspaceEntry, name) + kMaxKeyspaceNameSizeBytes;

uint64_t Sealed(uint32_t seed, uint64_t value) {
  return value | uint64_t{Crc32c(seed, &value, kSealedSizeBytes) & 0xffff} << kSealShift;
}

uint32_t HeaderChecksum(const KeyspaceTableHeader& header) {
  return Crc32c(0, &header, offsetof(KeyspaceTableHeader, checksum));
}

uint32_t NameChecksum(KeyspaceId id, const KeyspaceEntry& entry) {
  return Crc32c(id, reinterpret_cast<const char*>(&entry) + kNameBegin, kNameEnd - kNameBegin);
}

std::string Quoted(std::string_view name) {
  return absl::StrCat("\"", absl::CHexEscape(std::string(name)), "\"");
}

}  // namespace

absl::Status CheckKeyspaceName(std::string_view name) {
  if (!name.empty() && name.size() <= kMaxKeyspaceNameSizeBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the keyspace's name has ", name.size(),
                                                 " bytes; 1 to ", kMaxKeyspaceNameSizeBytes,
                                                 " are allowed"));
}

uint64_t KeyspaceTable::SealOffset(Address offset) { return Sealed(0, offset); }

KeyspaceTableHeader KeyspaceTable::MakeHeader(Address offset) {
  KeyspaceTableHeader header = {};
  header.magic = kKeyspaceTableMagic;
  header.self = offset;
  header.entries = kKeyspaceEntries;
  header.checksum = HeaderChecksum(header);
  return header;
}

uint64_t KeyspaceTable::SealState(KeyspaceId id, KeyspaceState state) {
  return Sealed(id, static_cast<uint64_t>(state));
}

std::optional<KeyspaceState> KeyspaceTable::UnsealState(KeyspaceId id, const KeyspaceEntry& entry) {
  const auto state = static_cast<KeyspaceState>(entry.state & 0xff);
  const bool known = state == KeyspaceState::kFree || state == KeyspaceState::kLive ||
                     state == KeyspaceState::kDropping;
  if (!known || entry.state != SealState(id, state)) return std::nullopt;
  return state;
}

bool KeyspaceTable::HasName(KeyspaceId id, const KeyspaceEntry& entry) {
  return entry.checksum == NameChecksum(id, entry) && entry.name_size_bytes > 0 &&
         entry.name_size_bytes <= kMaxKeyspaceNameSizeBytes;
}

void KeyspaceTable::SetName(KeyspaceId id, std::string_view name, KeyspaceEntry* entry) {
  entry->name_size_bytes = static_cast<uint16_t>(name.size());
  entry->reserved0 = 0;
  std::memset(entry->name, 0, sizeof(entry->name));
  std::memcpy(entry->name, name.data(), name.size());
  entry->checksum = NameChecksum(id, *entry);
}

bool KeyspaceTable::MayExist() const { return SuperblockOf(pool_)->keyspaces != 0; }

absl::Status KeyspaceTable::FindRun() {
  const uint64_t word = SuperblockOf(pool_)->keyspaces;
  if (word == 0) return absl::OkStatus();
  const Address offset = word & kAddressMask;
  if (word != Sealed(0, offset)) {
    return absl::DataLossError(absl::StrCat(
        "superblock: the word that names the table of keyspaces is damaged (",
        absl::Hex(word, absl::kZeroPad16), "); only the default keyspace can be used"));
  }
  const absl::StatusOr<dax::Run> run = pool_.FindRun(offset >> dax::kPageShift);
  if (absl::IsNotFound(run.status())) return absl::OkStatus();
  if (!run.ok()) return run.status();
  if (!run->live || run->kind != kKeyspaceTableRun || run->offset() != offset) {
    return absl::OkStatus();
  }
  const auto* header = reinterpret_cast<const KeyspaceTableHeader*>(pool_.At(offset));
  if (run->pages != kTablePages || header->magic != kKeyspaceTableMagic ||
      header->checksum != HeaderChecksum(*header) || header->self != offset ||
      header->entries != kKeyspaceEntries) {
    return absl::DataLossError(absl::StrCat("the header of the table of keyspaces at pool offset ",
                                            offset,
                                            " is damaged; only the default keyspace can be used"));
  }
  run_ = *run;
  return absl::OkStatus();
}

void KeyspaceTable::LoadEntry(KeyspaceId id) {
  const KeyspaceEntry& entry = *EntryOf(id);
  const auto damaged = [&](const char* what) {
    const bool named = HasName(id, entry);
    std::string name = named ? std::string(entry.name, entry.name_size_bytes) : std::string();
    damage_.push_back(absl::StrCat("table of keyspaces: ", what, " of entry ", id,
                                   " is damaged, at pool offset ", pool_.OffsetOf(&entry),
                                   named ? absl::StrCat(", named ", Quoted(name)) : ""));
    damaged_.push_back({id, std::move(name)});
  };
  const std::optional<KeyspaceState> state = UnsealState(id, entry);
  if (!state.has_value()) return damaged("the state");
  if (*state == KeyspaceState::kLive) {
    if (!HasName(id, entry)) return damaged("the name");
    if (!live_.emplace(std::string(entry.name, entry.name_size_bytes), id).second) {
      return damaged("the name, which another one has,");
    }
  }
  states_[id] = *state;
}

absl::Status KeyspaceTable::Load() {
  if (loaded_) return absl::OkStatus();
  absl::Status status = FindRun();
  if (!status.ok()) return status;
  states_.assign(kKeyspaceEntries, KeyspaceState{});
  live_.clear();
  damaged_.clear();
  damage_.clear();
  if (run_.kind != 0) {
    for (KeyspaceId id = 1; id < kKeyspaceEntries; ++id) LoadEntry(id);
    if (!pool_.was_clean()) status = MakeInheritedDurable();
  }
  loaded_ = status.ok();
  return status;
}

// A process that died may have stored a state, or the word that commits the table, and not flushed
// it: what is done for that state, as giving extents back, must not be durable before it. (The
// superblock's word lies in the line of Superblock::maps_valid_since, which the open has flushed
// after a crash.) With one wait: no state but free is older than the run's own word.
absl::Status KeyspaceTable::MakeInheritedDurable() {
  if (pool_.media().durability != dax::Durability::kPower) return pool_.Sync();
  for (KeyspaceId id = 1; id < kKeyspaceEntries; ++id) {
    if (states_[id] == KeyspaceState::kLive || states_[id] == KeyspaceState::kDropping) {
      pool_.Flush(EntryOf(id), sizeof(KeyspaceEntry));
    }
  }
  return pool_.CommitRun(run_);
}

absl::StatusOr<KeyspaceId> KeyspaceTable::Find(std::string_view name) const {
  const auto found = live_.find(name);
  if (found != live_.end()) return found->second;
  for (size_t i = 0; i < damaged_.size(); ++i) {
    if (damaged_[i].name.empty() || damaged_[i].name == name) {
      return absl::DataLossError(
          absl::StrCat("keyspace ", Quoted(name), " may be there or not: ", damage_[i]));
    }
  }
  return absl::NotFoundError(absl::StrCat("there is no keyspace ", Quoted(name)));
}

absl::StatusOr<std::string> KeyspaceTable::NameOf(KeyspaceId id) const {
  const auto found = std::find_if(live_.begin(), live_.end(),
                                  [id](const auto& keyspace) { return keyspace.second == id; });
  if (found != live_.end()) return found->first;
  return absl::NotFoundError(absl::StrCat("no keyspace has the id ", id));
}

KeyspaceState KeyspaceTable::StateOf(KeyspaceId id) const {
  if (run_.kind == 0 || id >= kKeyspaceEntries) return KeyspaceState::kFree;
  return states_[id];
}

std::vector<KeyspaceId> KeyspaceTable::Dropping() const {
  std::vector<KeyspaceId> ids;
  if (run_.kind == 0) return ids;
  for (KeyspaceId id = 1; id < kKeyspaceEntries; ++id) {
    if (states_[id] == KeyspaceState::kDropping) ids.push_back(id);
  }
  return ids;
}

// The superblock names the run before it is live. A crash before the run is committed: the run is
// free, and the word names nothing; after it: the table is there, without a keyspace.
absl::Status KeyspaceTable::MakeTable() {
  const absl::StatusOr<dax::Run> run =
      pool_.AllocateRun(kTablePages, kKeyspaceTableRun, kDefaultKeyspace, kKeyspaceTableSizeBytes);
  if (!run.ok()) return run.status();
  const KeyspaceTableHeader header = MakeHeader(run->offset());
  char* const bytes = pool_.At(run->offset());
  std::memset(bytes, 0, kKeyspaceTableSizeBytes);
  std::memcpy(bytes, &header, sizeof(header));
  auto* entries = reinterpret_cast<KeyspaceEntry*>(bytes);
  for (KeyspaceId id = 1; id < kKeyspaceEntries; ++id) {
    entries[id].state = SealState(id, KeyspaceState::kFree);
  }
  pool_.Flush(bytes, kKeyspaceTableSizeBytes);
  uint64_t& word = SuperblockOf(pool_)->keyspaces;
  __atomic_store_n(&word, Sealed(0, run->offset()), __ATOMIC_RELEASE);
  pool_.Flush(&word, sizeof(word));
  absl::Status status = MakeDurable();
  if (status.ok()) status = pool_.CommitRun(*run);
  if (!status.ok()) {
    pool_.ReleaseRun(*run).IgnoreError();
    return status;
  }
  run_ = *run;
  run_.live = true;
  states_.assign(kKeyspaceEntries, KeyspaceState::kFree);
  return absl::OkStatus();
}

absl::StatusOr<KeyspaceId> KeyspaceTable::Reserve(std::string_view name) {
  const absl::StatusOr<KeyspaceId> found = Find(name);
  if (found.ok()) {
    return absl::AlreadyExistsError(absl::StrCat("there is a keyspace ", Quoted(name)));
  }
  if (!absl::IsNotFound(found.status())) return found.status();
  if (run_.kind == 0) {
    absl::Status made = MakeTable();
    if (!made.ok()) return made;
  }
  const auto free = std::find(states_.begin() + 1, states_.end(), KeyspaceState::kFree);
  if (free == states_.end()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the store has room for ", kMaxKeyspaces, " keyspaces; drop some first"));
  }
  const auto id = static_cast<KeyspaceId>(free - states_.begin());
  absl::Status status = SetState(id, KeyspaceState::kDropping);
  if (!status.ok()) return status;
  KeyspaceEntry& entry = *EntryOf(id);
  entry.root = 0;
  SetName(id, name, &entry);
  pool_.Flush(&entry, sizeof(entry));
  return id;
}

// What this thread has flushed becomes durable also where Drain promises less.
absl::Status KeyspaceTable::MakeDurable() {
  return pool_.media().durability == dax::Durability::kPower ? pool_.Drain() : pool_.Sync();
}

// Makes what was flushed before durable, then the state.
absl::Status KeyspaceTable::SetState(KeyspaceId id, KeyspaceState state) {
  absl::Status status = MakeDurable();
  if (!status.ok()) return status;
  uint64_t& word = EntryOf(id)->state;
  const uint64_t before = word;
  __atomic_store_n(&word, SealState(id, state), __ATOMIC_RELEASE);
  status = pool_.PersistWord(&word);
  if (status.ok()) {
    states_[id] = state;
  } else {
    // What a process that dies leaves in the page cache is as it was.
    __atomic_store_n(&word, before, __ATOMIC_RELEASE);
    pool_.Flush(&word, sizeof(word));
  }
  return status;
}

absl::Status KeyspaceTable::Commit(KeyspaceId id) {
  const KeyspaceEntry& entry = *EntryOf(id);
  // First what may throw.
  const auto live = live_.emplace(std::string(entry.name, entry.name_size_bytes), id).first;
  absl::Status status = SetState(id, KeyspaceState::kLive);
  if (!status.ok()) live_.erase(live);
  return status;
}

absl::Status KeyspaceTable::Drop(KeyspaceId id) {
  absl::Status status = SetState(id, KeyspaceState::kDropping);
  if (!status.ok()) return status;
  const auto live = std::find_if(live_.begin(), live_.end(),
                                 [id](const auto& keyspace) { return keyspace.second == id; });
  if (live != live_.end()) live_.erase(live);
  return absl::OkStatus();
}

absl::Status KeyspaceTable::Free(KeyspaceId id) { return SetState(id, KeyspaceState::kFree); }

}  // namespace daxkv::kv
