// What the store does all day: puts, overwrites, deletes, groups, and the splits that come of them.
#include <vector>

#include "tests/crash/script.h"

namespace daxkv::crash {
namespace {

std::vector<Script> Scripts() {
  const std::vector<Operation> some = Puts(Keys(0, 20), 100);
  const std::vector<Operation> one_leaf = {PutGroup(Keys(0, 100, 10), 40)};
  const Script overwrite{"Overwrite", some, Puts(Keys(0, 20), 100) + Puts(Keys(0, 20), 300)};
  const Script erase{"Delete", Puts(Keys(0, 40), 100),
                     Deletes(Keys(0, 20)) + Puts(Keys(0, 10), 60) + Deletes(Keys(20, 20))};
  const Script leaf_split{"LeafSplit", one_leaf, Puts(Keys(1, 60, 10), 40)};
  const Script put_group{
      "PutGroup",
      one_leaf,
      {PutGroup(Keys(3, 30, 10), 80), PutGroup(Keys(0, 200, 4), 20), PutGroup(Keys(0, 50), 0)}};
  return {
      {"Put", some, Puts(Keys(100, 40), 100)},
      overwrite,
      OnPages(overwrite),
      erase,
      OnPages(erase),
      leaf_split,
      OnPages(leaf_split),
      put_group,
      OnPages(put_group),
      {"GroupsOf16",
       some,
       {PutGroup(Keys(100, 16), 60), PutGroup(Keys(100, 16), 60), DeleteGroup(Keys(100, 16))}},
      {"DeleteGroup",
       {PutGroup(Keys(0, 400), 40)},
       {DeleteGroup(Keys(0, 50)), DeleteGroup(Keys(100, 100, 3)), PutGroup(Keys(0, 120), 40),
        DeleteGroup(Keys(0, 400))}},
  };
}

const bool added = AddScripts(Scripts);

}  // namespace
}  // namespace daxkv::crash
