// Writers at the same time: on the same leaves, the same extents, the same keys.
#include <utility>
#include <vector>

#include "tests/crash/script.h"

namespace daxkv::crash {
namespace {

std::vector<Script> Scripts() {
  const std::vector<Operation> some = Puts(Keys(0, 40), 100);
  const Script neighbours{
      "ThreadsNeighbours",
      some,
      {},
      {Puts(Keys(0, 10, 2), 100) + Deletes(Keys(20, 5, 2)) + Puts(Keys(100, 10, 2), 60),
       Puts(Keys(1, 10, 2), 100) + Deletes(Keys(21, 5, 2)) + Puts(Keys(101, 10, 2), 60)}};
  const Script same_keys{
      "ThreadsSameKeys",
      some,
      {},
      {Puts(Keys(0, 5), 100) + Puts(Keys(0, 5), 150), Puts(Keys(0, 5), 120) + Puts(Keys(0, 5), 90),
       std::vector{PutGroup(Keys(0, 8), 70), PutGroup(Keys(2, 8), 70)}}};
  const Script splits{"ThreadsSplits",
                      {PutGroup(Keys(0, 100, 10), 40)},
                      {},
                      {Puts(Keys(1, 30, 20), 40), Puts(Keys(2, 30, 20), 40),
                       std::vector{PutGroup(Keys(3, 40, 20), 40), DeleteGroup(Keys(3, 20, 40))}}};
  Script space{"ThreadsSpace",
               Puts(Keys(0, 4), 100000) + PutGroup(Keys(10, 300), 400),
               {},
               {Deletes(Keys(0, 4)) + Puts(Keys(400, 5), 40000),
                std::vector{DeleteGroup(Keys(10, 250))} + Puts(Keys(500, 10), 300),
                Puts(Keys(600, 10), 200) + Compact() + Puts(Keys(610, 5), 200)}};
  space.share = 0.3;
  // While a delete waits for the medium, its slot comes free, and another record into it.
  std::vector<Operation> slow_deletes, slow_puts;
  for (Operation& operation : Deletes(Keys(0, 8))) {
    slow_deletes.push_back(Slowed(std::move(operation), 30));
  }
  for (Operation& operation : Puts(Keys(380, 20), 40)) {
    slow_puts.push_back(Slowed(std::move(operation), 5));
  }
  const Script slow{
      "ThreadsSlowDeletes", {PutGroup(Keys(0, 400), 40)}, {}, {slow_deletes, slow_puts}};
  // Slots of an old extent come free while the deletes that emptied them wait for the medium, and
  // other records get them, of keys whose leaves lie in other pages.
  std::vector<Operation> far_puts = {Slowed(Put("other size", 1000), 60)};
  for (Operation& operation : Puts(Keys(3900, 12), 40)) {
    far_puts.push_back(Slowed(std::move(operation), 2));
  }
  Script reuse{"ThreadsSlotReuse",
               {PutGroup(Keys(0, 4000), 40)},
               {},
               {{Slowed(DeleteGroup(Keys(0, 400)), 200)}, far_puts}};
  reuse.share = 0.1;
  // One put of a key waits for the medium, others overtake it: it gets a later number.
  std::vector<Operation> overtaken, overtaking;
  for (Operation& operation : Puts(Keys(0, 10), 100)) {
    overtaken.push_back(Slowed(std::move(operation), 20));
  }
  for (int i = 0; i < 8; ++i) {
    for (Operation& operation : Puts(Keys(0, 10), 60)) {
      overtaking.push_back(Slowed(std::move(operation), 1));
    }
  }
  const Script later_number{"ThreadsLaterNumber", some, {}, {overtaken, overtaking}};
  return {reuse,     OnPages(reuse), later_number, neighbours, OnPages(neighbours),
          same_keys, splits,         space,        slow,       OnPages(slow)};
}

const bool added = AddScripts(Scripts);

}  // namespace
}  // namespace daxkv::crash
