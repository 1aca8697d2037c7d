#include "tests/crash/symbols.h"

#include <elf.h>
#include <link.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <vector>

namespace daxkv::crash {
namespace {

struct Function {
  uint64_t first, end;  // Addresses.
  std::string name;
};

uint64_t LoadAddress() {
  uint64_t address = 0;
  // The program itself comes first.
  const auto take_first = [](dl_phdr_info* info, size_t, void* to) {
    *static_cast<uint64_t*>(to) = info->dlpi_addr;
    return 1;
  };
  dl_iterate_phdr(take_first, &address);
  return address;
}

std::vector<Function> ReadFunctions() {
  std::ifstream file("/proc/self/exe", std::ios::binary);
  const std::string image{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (image.size() < sizeof(Elf64_Ehdr)) return {};
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(image.data());
  const auto* sections = reinterpret_cast<const Elf64_Shdr*>(image.data() + header->e_shoff);
  const uint64_t load_address = LoadAddress();
  std::vector<Function> functions;
  for (unsigned i = 0; i < header->e_shnum; ++i) {
    if (sections[i].sh_type != SHT_SYMTAB) continue;
    const char* names = image.data() + sections[sections[i].sh_link].sh_offset;
    const auto* symbols = reinterpret_cast<const Elf64_Sym*>(image.data() + sections[i].sh_offset);
    for (uint64_t k = 0; k < sections[i].sh_size / sizeof(Elf64_Sym); ++k) {
      if (ELF64_ST_TYPE(symbols[k].st_info) != STT_FUNC || symbols[k].st_size == 0) continue;
      const uint64_t first = load_address + symbols[k].st_value;
      functions.push_back({first, first + symbols[k].st_size, names + symbols[k].st_name});
    }
  }
  std::sort(functions.begin(), functions.end(),
            [](const Function& a, const Function& b) { return a.first < b.first; });
  return functions;
}

}  // namespace

Symbol FindSymbol(const void* address) {
  static const auto* functions = new std::vector<Function>(ReadFunctions());
  const auto wanted = reinterpret_cast<uint64_t>(address);
  auto after =
      std::upper_bound(functions->begin(), functions->end(), wanted,
                       [](uint64_t at, const Function& function) { return at < function.first; });
  if (after == functions->begin() || wanted >= (--after)->end) return {};
  return {after->name, wanted - after->first};
}

}  // namespace daxkv::crash
