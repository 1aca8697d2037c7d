// Names of the program's own functions, also of those that no other object may call (lambdas,
// functions in anonymous namespaces), which dladdr does not know.
//
// Thread safety: all of it from any thread.
#ifndef DAXKV_TESTS_CRASH_SYMBOLS_H_
#define DAXKV_TESTS_CRASH_SYMBOLS_H_

#include <cstdint>
#include <string>

namespace daxkv::crash {

struct Symbol {
  std::string name;  // Mangled. Empty: the address is in no function of the program.
  uint64_t offset = 0;
};
// The function that has the byte at `address`.
Symbol FindSymbol(const void* address);

}  // namespace daxkv::crash

#endif  // DAXKV_TESTS_CRASH_SYMBOLS_H_
