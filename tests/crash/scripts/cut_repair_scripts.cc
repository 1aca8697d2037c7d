// Repairs that a crash cuts short: the next one knows all that the first did, and reports no loss
// either. Of a store that was closed it finds again what can't be found without the maps that the
// close has saved; and what the first has left of a new index does not count.
#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kv/format.h"
#include "tests/crash/script.h"
#include "tests/crash/scripts/keyspace_operations.h"

namespace daxkv::crash {
namespace {

using Changes = std::vector<Operation::Change>;

// Whether the bytes, at that pool offset, begin an index leaf; then it is damaged.
using DamageLeaf = bool (*)(kv::NodeHeader* leaf, uint64_t* slots);

bool EmptySlot(kv::NodeHeader*, uint64_t* slots) {
  unsigned slot = 0;
  while (slot < kv::kLeafSlots && slots[slot] == 0) ++slot;
  if (slot == kv::kLeafSlots) return false;
  slots[slot] = 0;
  return true;
}

bool ChangeHeader(kv::NodeHeader* leaf, uint64_t*) {
  leaf->magic ^= 1;
  return true;
}

bool ChangeHeaderAndSlot(kv::NodeHeader* leaf, uint64_t* slots) {
  return ChangeHeader(leaf, slots) && EmptySlot(leaf, slots);
}

// Of a closed store: every second leaf.
Operation Damage(DamageLeaf damage) {
  return {"damage", {}, [damage](Store& store, const Changes&) {
            unsigned leaves = 0, damaged = 0;
            uint64_t part_offset = 0;
            for (size_t part = 0;; ++part) {
              const int file = open(store.files().PartPath(part).c_str(), O_RDWR | O_CLOEXEC);
              if (file < 0) break;
              const off_t size = lseek(file, 0, SEEK_END);
              struct {
                kv::NodeHeader header;
                uint64_t slots[kv::kLeafSlots];
              } leaf;
              static_assert(sizeof(leaf) == kv::kLeafSizeBytes);
              for (off_t at = 0; pread(file, &leaf, sizeof(leaf), at) == sizeof(leaf); at += 64) {
                if (leaf.header.magic != kv::kLeafMagic ||
                    leaf.header.self != part_offset + static_cast<uint64_t>(at) ||
                    leaves++ % 2 != 0 || !damage(&leaf.header, leaf.slots)) {
                  continue;
                }
                if (pwrite(file, &leaf, sizeof(leaf), at) == sizeof(leaf)) ++damaged;
              }
              part_offset += static_cast<uint64_t>(size);
              close(file);
            }
            return damaged > 1 ? absl::OkStatus() : absl::NotFoundError("nothing to damage");
          }};
}

std::vector<Script> Scripts() {
  Operation repair{"repair", {}, [](Store& store, const Changes&) { return store.Repair(true); }};
  repair.heals = true;
  // Deleted and replaced records lie about, of which none may come back.
  const std::vector<Operation> closed = std::vector{PutGroup(Keys(0, 400), 30)} +
                                        Puts(Keys(0, 2), 60000) + PutGroup(Keys(10, 60), 50) +
                                        DeleteGroup(Keys(100, 40)) + Close();
  const std::vector<Operation> keyspaces = std::vector{
      PutGroup(Keys(0, 150), 30), Create("a"), BatchAcross(In("a", Keys(0, 150)), 30), Close()};
  // Closed once: by then what was deleted is stamped.
  const std::vector<Operation> stored =
      std::vector{PutGroup(Keys(0, 400), 30), DeleteGroup(Keys(100, 40))} + CloseAndOpen();
  const Operation killed = Killed(PutGroup(Keys(0, 90), 30), 0);
  const std::vector<Operation> again = std::vector{repair, Open(), Put("new", 40)};
  std::vector<Script> scripts = {
      {"CutRepairSlots", closed + Damage(EmptySlot), again},
      {"CutRepairLeaves", closed + Damage(ChangeHeaderAndSlot), again},
      {"CutRepairAfterCrash", stored, std::vector{killed, Damage(ChangeHeader)} + again},
      {"CutRepairKeyspaces", keyspaces + Damage(EmptySlot), again},
  };
  scripts.push_back(OnPages(scripts[1]));
  for (Script& script : scripts) {
    script.repairs = script.lossless = true;
    script.share = 0.06;
  }
  return scripts;
}

const bool added = AddScripts(Scripts);

}  // namespace
}  // namespace daxkv::crash
