// Changes that depend on what a key holds, ranges, and values filled in place.
#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "tests/crash/script.h"

namespace daxkv::crash {
namespace {

using Changes = std::vector<Operation::Change>;

Operation Named(const char* name, Operation operation,
                std::function<absl::Status(Store&, const Changes&)> run) {
  operation.name = name;
  operation.run = std::move(run);
  return operation;
}

Operation Insert(const std::string& key, size_t size_bytes) {
  return Named("insert", Put(key, size_bytes), [](Store& store, const Changes& changes) {
    return store.db().Insert(changes[0].key, *changes[0].value);
  });
}

// To the change's value, or none, whatever it was.
Operation Update(Operation change) {
  return Named("update", std::move(change), [](Store& store, const Changes& changes) {
    const auto function = [&](std::optional<std::string_view>,
                              std::string* value) -> absl::StatusOr<kv::UpdateAction> {
      if (!changes[0].value.has_value()) return kv::UpdateAction::kDelete;
      *value = *changes[0].value;
      return kv::UpdateAction::kPut;
    };
    return store.db().Update(changes[0].key, function);
  });
}

Operation Swap(const std::string& key, size_t size_bytes) {
  return Named("swap", Put(key, size_bytes), [](Store& store, const Changes& changes) {
    const absl::StatusOr<std::string> current = store.db().Get(changes[0].key);
    if (!current.ok()) return current.status();
    return store.db().CompareAndSwap(changes[0].key, *current, *changes[0].value);
  });
}

Operation WriteInPlace(const std::string& key, size_t size_bytes) {
  return Named("value writer", Put(key, size_bytes), [](Store& store, const Changes& changes) {
    const std::string& value = *changes[0].value;
    absl::StatusOr<kv::ValueWriter> abandoned = store.db().NewValueWriter("abandoned", 5000);
    if (!abandoned.ok()) return abandoned.status();
    std::fill(abandoned->bytes().begin(), abandoned->bytes().end(), 'x');
    absl::StatusOr<kv::ValueWriter> writer =
        store.db().NewValueWriter(changes[0].key, value.size());
    if (!writer.ok()) return writer.status();
    std::copy(value.begin(), value.end(), writer->bytes().begin());
    return writer->Commit();
  });
}

std::vector<Script> Scripts() {
  const std::vector<Operation> some = Puts(Keys(0, 20), 100);
  const Script conditional{
      "Conditional",
      some,
      {Insert("new", 50), Update(Put("new", 60)), Swap("new", 70), Update(Delete("new")),
       Insert("new", 80), Update(Put("other", 90)), Swap("key000003", 3000)}};
  const Script in_place{"ValueWriter",
                        some,
                        {WriteInPlace("key000001", 10), WriteInPlace("key000002", 3000),
                         WriteInPlace("key000001", 3000), WriteInPlace("key000003", 3100),
                         WriteInPlace("new", 100000), WriteInPlace("new", 40)}};
  const Script ranges{"DeleteRange",
                      {PutGroup(Keys(0, 400), 40)},
                      {DeleteRange(Keys(10, 5)), DeleteRange(Keys(50, 150)), Put("key000060", 20),
                       DeleteRange(Keys(200, 200))}};
  // Empty leaves, keys at both ends, what a snapshot holds; a process that dies on the way.
  const Script many_ranges{
      "DeleteRanges",
      {PutGroup(Keys(0, 900), 20)},
      {DeleteRange(Keys(0, 200)), TakeSnapshot(), DeleteRange(Keys(300, 300)), Put("key000400", 30),
       DeleteRange(Keys(800, 100)), ReleaseSnapshot(), DeleteRange(Keys(400, 1)),
       DeleteRange(Keys(200, 100)), Compact(), PutGroup(Keys(0, 50), 30)}};
  const Script killed_range{"KilledDeleteRange",
                            {PutGroup(Keys(0, 400), 40)},
                            std::vector{Killed(DeleteRange(Keys(0, 150)), 0), Open()} +
                                Puts(Keys(500, 3), 40) + Killed(DeleteRange(Keys(150, 150)), 1) +
                                Open() + Puts(Keys(510, 3), 40) + Compact()};
  return {conditional,          in_place,     OnPages(in_place),    ranges, many_ranges,
          OnPages(many_ranges), killed_range, OnPages(killed_range)};
}

const bool added = AddScripts(Scripts);

}  // namespace
}  // namespace daxkv::crash
