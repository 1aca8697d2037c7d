#include "dax/invariant.h"

#include <cstdio>
#include <cstdlib>

namespace daxkv::dax::internal {

void InvariantBroken(const char* message) {
  std::fprintf(stderr, "daxkv: invariant broken: %s\n", message);
  std::abort();
}

}  // namespace daxkv::dax::internal
