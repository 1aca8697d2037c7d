// Repairs of damaged stores: a crash in the midst of one, then another repair, loses nothing that
// was there. And crashes of that.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kv/format.h"
#include "tests/crash/script.h"
#include "tests/crash/scripts/keyspace_operations.h"

namespace daxkv::crash {
namespace {

using Changes = std::vector<Operation::Change>;

std::vector<char> ReadFile(int file) {
  std::vector<char> bytes(static_cast<size_t>(lseek(file, 0, SEEK_END)));
  const ssize_t size = pread(file, bytes.data(), bytes.size(), 0);
  bytes.resize(size < 0 ? 0 : static_cast<size_t>(size));
  return bytes;
}

template <typename Header>
bool IsThere(const char* bytes, uint64_t magic, kv::Address address) {
  Header header;
  memcpy(&header, bytes, sizeof(header));
  return header.magic == magic && header.self == address;
}

// Of a closed store: every second header of that kind gets another first byte.
template <typename Header>
Operation Damage(uint32_t magic) {
  return {"damage", {}, [magic](Store& store, const Changes&) {
            unsigned found = 0;
            uint64_t part_offset = 0;
            for (size_t part = 0;; ++part) {
              const int file = open(store.files().PartPath(part).c_str(), O_RDWR | O_CLOEXEC);
              if (file < 0) break;
              const std::vector<char> bytes = ReadFile(file);
              for (uint64_t at = 0; at + sizeof(Header) <= bytes.size(); at += sizeof(Header)) {
                if (!IsThere<Header>(&bytes[at], magic, part_offset + at) || found++ % 2 != 0) {
                  continue;
                }
                const char wrong = static_cast<char>(bytes[at] ^ 1);
                if (pwrite(file, &wrong, 1, static_cast<off_t>(at)) != 1) found = 0;
              }
              part_offset += bytes.size();
              close(file);
            }
            return found > 1 ? absl::OkStatus() : absl::NotFoundError("nothing to damage");
          }};
}

// Of a closed store: the first record of that key, which is an atomic batch's, gets another value.
Operation DamageOfBatch(const std::string& key) {
  return {"damage", {}, [key](Store& store, const Changes&) {
            for (size_t part = 0;; ++part) {
              const int file = open(store.files().PartPath(part).c_str(), O_RDWR | O_CLOEXEC);
              if (file < 0) return absl::NotFoundError("nothing to damage");
              const std::vector<char> bytes = ReadFile(file);
              const auto found = std::search(bytes.begin(), bytes.end(), key.begin(), key.end());
              const auto at = static_cast<size_t>(found - bytes.begin());
              const bool done = found != bytes.end() && at >= sizeof(kv::RecordHeader) &&
                                (bytes[at - 1] & kv::kOfBatchFlag) != 0 &&
                                pwrite(file, "#", 1, static_cast<off_t>(at + key.size())) == 1;
              close(file);
              if (done) return absl::OkStatus();
            }
          }};
}

// Flips a bit of the byte at `at` of the structure.
template <typename Header>
struct Damaged {
  uint64_t at;
  std::function<bool(const char* bytes, kv::Address address)> is_there;

  bool Do(int file, const std::vector<char>& bytes, uint64_t part_offset) const {
    for (uint64_t begin = 0; begin + sizeof(Header) <= bytes.size(); begin += 64) {
      if (!is_there(&bytes[begin], part_offset + begin)) continue;
      const char wrong = static_cast<char>(bytes[begin + at] ^ 1);
      return pwrite(file, &wrong, 1, static_cast<off_t>(begin + at)) == 1;
    }
    return false;
  }
};

constexpr uint64_t kEntry = sizeof(kv::KeyspaceEntry);

// Of a closed store with keyspaces: the word that leads to their table, if `word`, and bytes of the
// table. All of that begins in the first part. Done twice, it is undone.
Operation DamageOfTable(bool word, const std::vector<uint64_t>& places) {
  return {"damage", {}, [word, places](Store& store, const Changes&) {
            const auto is_superblock = [](const char* bytes, kv::Address) {
              kv::Superblock superblock;
              memcpy(&superblock, bytes, sizeof(superblock));
              return superblock.magic == kv::kSuperblockMagic &&
                     superblock.format_version == kv::kFormatVersion;
            };
            const auto is_table = [](const char* bytes, kv::Address address) {
              return IsThere<kv::KeyspaceTableHeader>(bytes, kv::kKeyspaceTableMagic, address);
            };
            const int file = open(store.files().PartPath(0).c_str(), O_RDWR | O_CLOEXEC);
            if (file < 0) return absl::NotFoundError("no part");
            const std::vector<char> bytes = ReadFile(file);
            bool done =
                !word ||
                Damaged<kv::Superblock>{offsetof(kv::Superblock, keyspaces) + 7, is_superblock}.Do(
                    file, bytes, 0);
            for (const uint64_t at : places) {
              done = done && Damaged<kv::KeyspaceTableHeader>{at, is_table}.Do(file, bytes, 0);
            }
            close(file);
            return done ? absl::OkStatus() : absl::NotFoundError("nothing to damage");
          }};
}

// What a store holds after `setup`, if a keyspace gets another name.
Operation Renamed(const std::vector<Operation>& setup, const std::string& from,
                  const std::string& to, Operation damage) {
  std::map<std::string, std::optional<std::string>> held;
  for (const Operation& operation : setup) {
    for (const Operation::Change& change : operation.changes) held[change.key] = change.value;
  }
  for (const auto& [key, value] : held) {
    if (key.compare(0, from.size() + 1, "@" + from) != 0 || !value.has_value()) continue;
    damage.changes.push_back({key, std::nullopt});
    damage.changes.push_back({"@" + to + key.substr(from.size() + 1), value});
  }
  return damage;
}

// A batch that a crash cuts short at that fence, and what a repair is to make of it.
Operation CutBatch(const std::vector<std::string>& put, unsigned fence,
                   const std::vector<std::string>& kept) {
  Operation cut = Killed(BatchAcross(put, 40), fence);
  cut.run = [run = cut.run, changes = cut.changes](Store& store, const Changes&) {
    return run(store, changes);
  };
  cut.changes.erase(std::remove_if(cut.changes.begin(), cut.changes.end(),
                                   [&](const Operation::Change& change) {
                                     return std::count(kept.begin(), kept.end(), change.key) == 0;
                                   }),
                    cut.changes.end());
  return cut;
}

std::vector<std::string> operator+(std::vector<std::string> a, const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Operation Repair() {
  Operation repair{"repair", {}, [](Store& store, const Changes&) { return store.Repair(false); }};
  repair.heals = true;
  return repair;
}

std::vector<Script> Scripts() {
  // Deleted and replaced records lie about, of which none may come back.
  const std::vector<Operation> closed =
      std::vector{PutGroup(Keys(0, 400), 30)} + Puts(Keys(0, 5), 60000) +
      PutGroup(Keys(10, 60), 50) + DeleteGroup(Keys(100, 40)) + Batch(Keys(200, 20), 40) + Close();
  // The process died when it had committed a batch, of which the leaves know nothing yet.
  const std::vector<Operation> crashed =
      std::vector{PutGroup(Keys(0, 400), 30), DeleteGroup(Keys(100, 40)),
                  Batch(Keys(300, 6), 30, Keys(310, 3))} +
      Puts(Keys(0, 2), 60000) + Killed(Batch(Keys(200, 6), 30, Keys(210, 3)), 1);
  const std::vector<Operation> again = std::vector{Repair(), Open()} + Puts(Keys(20, 4), 100) +
                                       Deletes(Keys(30, 2)) + CloseAndOpen() + Put("new", 40);
  std::vector<Script> scripts = {
      {"RepairLeaves", closed + Damage<kv::NodeHeader>(kv::kLeafMagic), again},
      {"RepairLeavesAndExtents",
       closed + Damage<kv::NodeHeader>(kv::kLeafMagic) + Damage<kv::ExtentHeader>(kv::kSlabMagic),
       again},
      {"RepairExtents", closed + Damage<kv::ExtentHeader>(kv::kSlabMagic), again},
      // The repair meets what only the caches have.
      {"RepairInherited",
       std::vector{PutGroup(Keys(0, 400), 30), DeleteGroup(Keys(100, 40))} + CloseAndOpen(),
       std::vector{Killed(PutGroup(Keys(0, 90), 200), 0)} + Damage<kv::NodeHeader>(kv::kLeafMagic) +
           again},
      // What a dead process had unlinked, and only the caches know of, is taken by others.
      {"RepairExtentsInherited", std::vector{PutGroup(Keys(0, 400), 30)} + CloseAndOpen(),
       std::vector{Killed(DeleteGroup(Keys(0, 100)), 0)} +
           Damage<kv::ExtentHeader>(kv::kSlabMagic) + Repair() + Open() +
           PutGroup(Keys(500, 90), 30) + Put("new", 40)},
      {"RepairAfterCrash", crashed + Damage<kv::NodeHeader>(kv::kLeafMagic), again},
      {"RepairExtentsAfterCrash", crashed + Damage<kv::ExtentHeader>(kv::kSlabMagic), again}};
  const std::vector<Operation> keyspaces =
      std::vector{PutGroup(Keys(0, 150), 30),
                  Create("a"),
                  Create("b"),
                  BatchAcross(In("a", Keys(0, 150)), 30),
                  BatchAcross(In("b", Keys(0, 150)), 40),
                  BatchAcross(Keys(40, 5) + In("a", Keys(40, 5)), 50, In("b", Keys(40, 5)))};
  const std::vector<Operation> across =
      std::vector{Repair(), Open(), BatchAcross({"new", In("a", "new"), In("b", "new")}, 50),
                  Drop("b", Keys(0, 40) + Keys(45, 105) + std::vector<std::string>{"new"})};
  scripts.push_back(
      {"RepairKeyspaces", keyspaces + Close() + Damage<kv::NodeHeader>(kv::kLeafMagic), across});
  // Cut once its word is stored, it is dropped; once a leaf refers to its records, it is finished
  // but for the one that is damaged.
  const std::vector<std::string> members = {"cut", In("a", "cut a"), In("b", "cut b")};
  scripts.push_back(
      {"RepairCutBatch", keyspaces + CutBatch(members, 4, {}) + DamageOfBatch("cut a"), across});
  scripts.push_back(
      {"RepairAppliedBatch",
       keyspaces + CutBatch(members, 5, {"cut", In("b", "cut b")}) + DamageOfBatch("cut a"),
       std::vector{Repair(), Open(), BatchAcross({"new", In("a", "new"), In("b", "new")}, 50)}});
  // The header, the state of keyspace 1, the name of keyspace 2.
  const Operation damage = DamageOfTable(true, {offsetof(kv::KeyspaceTableHeader, entries),
                                                kEntry + offsetof(kv::KeyspaceEntry, state),
                                                2 * kEntry + offsetof(kv::KeyspaceEntry, name)});
  scripts.push_back({"RepairTable",
                     keyspaces + Close() + Renamed(keyspaces, "b", "name lost 2", damage),
                     std::vector{Repair(), Open(), PutIn("name lost 2", "new", 50)} +
                         CloseAndOpen() + PutIn("a", "new", 40)});
  scripts.push_back(OnPages(scripts.back()));
  // A repair has mended the header, and the states of a keyspace and of a free entry, when its
  // process died: the next one finds nothing wrong, and what it sees is in the caches only.
  const Operation some_damage =
      DamageOfTable(false, {offsetof(kv::KeyspaceTableHeader, entries),
                            kEntry + offsetof(kv::KeyspaceEntry, state),
                            4 * kEntry + offsetof(kv::KeyspaceEntry, state)});
  scripts.push_back({"RepairTableOfDeadRepair", keyspaces + Crash() + some_damage,
                     std::vector{some_damage, InOtherThread(Repair()), Open(),
                                 BatchAcross({In("a", "new"), In("b", "new")}, 50)}});
  // A session that wrote into free slots of old extents, whose maps a close had saved, and died.
  const std::vector<Operation> of_sizes =
      std::vector{PutGroup(Keys(0, 40), 60), PutGroup(Keys(100, 20), 300),
                  PutGroup(Keys(200, 20), 700), PutGroup(Keys(300, 20), 1500)};
  const std::vector<Operation> maps_of_old =
      of_sizes + CloseAndOpen() + PutGroup(Keys(50, 20), 60) + PutGroup(Keys(130, 10), 300) +
      PutGroup(Keys(230, 5), 700) + DeleteGroup(Keys(0, 20)) + Crash();
  scripts.push_back(
      {"RepairExtentsWithOldMaps", maps_of_old + Damage<kv::ExtentHeader>(kv::kSlabMagic), again});
  // The session that died is recorded, too. Where its word is not durable, the repair believes those
  // maps, and brings back what it deleted. The thread that opens makes no fence after that word's.
  scripts.push_back(
      {"RepairAfterCrashOfSession", of_sizes + Close(),
       std::vector{InOtherThread(Open()), DelayOfGracePeriods(300),
                   DeleteGroup(Keys(0, 5) + Keys(100, 5) + Keys(200, 5) + Keys(300, 5)), Crash(),
                   DelayOfGracePeriods(0), Damage<kv::ExtentHeader>(kv::kSlabMagic)} +
           again});
  scripts.push_back(OnPages(scripts[0]));
  for (Script& script : scripts) {
    script.repairs = true;
    script.share = 0.06;
  }
  return scripts;
}

const bool added = AddScripts(Scripts);

}  // namespace
}  // namespace daxkv::crash
