// Repairs of damaged stores: a crash in the midst of one, then another repair, loses nothing that was
// there. And crashes of that.
#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "absl/status/status.h"
#include "kv/format.h"
#include "tests/crash/script.h"

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
bool IsThere(const char* bytes, uint32_t magic, kv::Address address) {
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

Operation Repair() {
  return {"repair", {}, [](Store& store, const Changes&) { return store.Repair(); }};
}

std::vector<Script> Scripts() {
  // Deleted and replaced records lie about, of which none may come back.
  const std::vector<Operation> closed =
      std::vector{PutGroup(Keys(0, 400), 30)} + Puts(Keys(0, 5), 60000) +
      PutGroup(Keys(10, 60), 50) + DeleteGroup(Keys(100, 40)) + Batch(Keys(200, 20), 40) + Close();
  const std::vector<Operation> again = std::vector{Repair(), Open()} + Puts(Keys(20, 4), 100) +
                                       Deletes(Keys(30, 2)) + CloseAndOpen() + Put("new", 40);
  std::vector<Script> scripts = {
      {"RepairLeaves", closed + Damage<kv::NodeHeader>(kv::kLeafMagic), again},
      {"RepairLeavesAndExtents",
       closed + Damage<kv::NodeHeader>(kv::kLeafMagic) + Damage<kv::ExtentHeader>(kv::kSlabMagic),
       again},
      {"RepairExtents", closed + Damage<kv::ExtentHeader>(kv::kSlabMagic), again}};
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
