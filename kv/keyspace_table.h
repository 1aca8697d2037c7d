// The table of keyspaces in the pool: their names, whether they live, and where their indexes
// begin. To the byte: format.h. Internal to kv/.
//
//   free --Reserve--> dropping --Commit--> live --Drop--> dropping --Free--> free
//
// Thread safety: none, except for RootOf. Reserve to Free are durable on return, whatever the
// store's durability; what fails with kInternal may have been done.
//
// Invariants
//   S1  Only an entry that is not free has extents. Whoever opens the store truncates what belongs
//       to a dropping one, and then frees it: a creation that a crash cut short leaves nothing, and
//       an id is used again only when nothing of the keyspace before is left.
//   S2  Of the live entries no two have one name.
#ifndef DAXKV_KV_KEYSPACE_TABLE_H_
#define DAXKV_KV_KEYSPACE_TABLE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "dax/pool.h"
#include "kv/format.h"

namespace daxkv::kv {

class KeyspaceTable {
 public:
  // The superblock's word for a table at this offset.
  static uint64_t SealOffset(Address offset);
  // What the table and its entries are made of; for a repair, too.
  static KeyspaceTableHeader MakeHeader(Address offset);
  static uint64_t SealState(KeyspaceId id, KeyspaceState state);
  static std::optional<KeyspaceState> UnsealState(KeyspaceId id, const KeyspaceEntry& entry);
  static bool HasName(KeyspaceId id, const KeyspaceEntry& entry);
  static void SetName(KeyspaceId id, std::string_view name, KeyspaceEntry* entry);

  // Reads nothing. `pool` must outlive the table.
  explicit KeyspaceTable(dax::Pool* pool) : pool_(*pool) {}

  // Reads the table, unless that was done before. Without one, that is an empty one.
  //   kDataLoss  the word that names it, or its header, is damaged; or entries are, which then are
  //              of no use: of every other name it is known whether it is there
  absl::Status Load();
  // Whether the pool may have a table, or what is left of one. Reads one word.
  bool MayExist() const;

  // These need Load.
  // The live keyspace of this name.
  //   kNotFound  there is none
  //   kDataLoss  there is an entry whose name or state is damaged, and which may be it
  absl::StatusOr<KeyspaceId> Find(std::string_view name) const;
  // kNotFound: it is not live.
  absl::StatusOr<std::string> NameOf(KeyspaceId id) const;
  KeyspaceState StateOf(KeyspaceId id) const;
  // Live ones by name; entries that are damaged are left out.
  const std::map<std::string, KeyspaceId, std::less<>>& live() const { return live_; }
  std::vector<KeyspaceId> Dropping() const;
  // One line for each damaged entry.
  const std::vector<std::string>& damage() const { return damage_; }
  // The word where the index of an entry begins.
  uint64_t* RootOf(KeyspaceId id) const { return &EntryOf(id)->root; }
  // The table's run; kind 0: there is none.
  const dax::Run& run() const { return run_; }

  // Takes a free entry for a keyspace of this name, making the table if there is none.
  //   kAlreadyExists, kDataLoss as of Find, kResourceExhausted: no entry or no room for the table
  absl::StatusOr<KeyspaceId> Reserve(std::string_view name);
  // The entry's root is durable.
  absl::Status Commit(KeyspaceId id);
  absl::Status Drop(KeyspaceId id);
  absl::Status Free(KeyspaceId id);

 private:
  struct DamagedEntry {
    KeyspaceId id;
    std::string name;  // Empty: that, too, is damaged.
  };

  KeyspaceEntry* EntryOf(KeyspaceId id) const {
    return reinterpret_cast<KeyspaceEntry*>(pool_.At(run_.offset())) + id;
  }
  absl::Status FindRun();
  void LoadEntry(KeyspaceId id);
  absl::Status MakeTable();
  absl::Status MakeInheritedDurable();
  absl::Status MakeDurable();
  absl::Status SetState(KeyspaceId id, KeyspaceState state);

  dax::Pool& pool_;
  bool loaded_ = false;
  dax::Run run_;
  std::vector<KeyspaceState> states_;  // By id.
  std::map<std::string, KeyspaceId, std::less<>> live_;
  std::vector<DamagedEntry> damaged_;
  std::vector<std::string> damage_;
};

// kInvalidArgument naming the size and the limits.
absl::Status CheckKeyspaceName(std::string_view name);

}  // namespace daxkv::kv

#endif  // DAXKV_KV_KEYSPACE_TABLE_H_
