#include "tests/kv/stress_state.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

// Well mixed, and the same in every process.
uint64_t Dice(uint64_t a, uint64_t b) {
  uint64_t x = (a + 1) * 0x9e3779b97f4a7c15 ^ (b + 1) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 31)) * 0x94d049bb133111eb;
  return x ^ (x >> 29);
}

}  // namespace

const char* const kStressCallNames[kStressCalls] = {
    "put",       "delete",       "insert",          "update",       "cas",     "batch",
    "put-group", "delete-group", "range",           "value-writer", "counter", "get",
    "multi-get", "snapshot",     "verify-snapshot", "pin",          "iterate", "estimate",
    "sync",      "compact",      "backup",          "passing",
};

StressState* MapStressState(const std::string& path) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return nullptr;
  void* map = MAP_FAILED;
  if (ftruncate(fd, sizeof(StressState)) == 0) {
    map = mmap(nullptr, sizeof(StressState), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  }
  close(fd);
  return map == MAP_FAILED ? nullptr : static_cast<StressState*>(map);
}

std::string StressKeyspaceName(uint32_t keyspace) { return absl::StrCat("keyspace", keyspace); }
std::string PassingName(uint32_t thread) { return absl::StrCat("passing", thread); }

std::string StressKey(uint32_t i) {
  std::string key = NumberedKey(i);
  if (i % 101 == 0) key.append(1000 + i * 37 % 60'000, 'k');
  return key;
}

std::string CounterKey(uint32_t i) { return absl::StrCat("counter", i); }

std::string StressValue(uint32_t i, KeyState state) {
  const uint64_t dice = Dice(i, NumberOf(state));
  const uint64_t limit = dice % 200 == 0 ? 400'000 : dice % 10 == 0 ? 20'000 : 900;
  std::string value = absl::StrCat(NumberOf(state), ";");
  return value.append(ValueFor(NumberedKey(i), NumberOf(state), dice / 200 % limit));
}

uint32_t NumberIn(std::string_view value) {
  uint32_t number = 0;
  const size_t end = value.substr(0, 12).find(';');
  if (end == std::string_view::npos) return 0;
  return absl::SimpleAtoi(std::string(value.substr(0, end)), &number) ? number : 0;
}

bool Matches(uint32_t i, KeyState state, std::optional<std::string_view> value) {
  if (!IsPresent(state)) return !value.has_value();
  return value.has_value() && NumberIn(*value) == NumberOf(state) &&
         *value == StressValue(i, state);
}

bool MayBeRead(uint32_t i, uint64_t before, uint64_t after, std::optional<std::string_view> value) {
  if (before == after) {
    return Matches(i, KeyExpectation::CommittedOf(before), value) ||
           Matches(i, KeyExpectation::PendingOf(before), value);
  }
  if (!value.has_value()) return true;
  const uint32_t number = NumberIn(*value);
  return number >= NumberOf(KeyExpectation::CommittedOf(before)) &&
         number <= NumberOf(KeyExpectation::PendingOf(after)) && Matches(i, number << 1 | 1, value);
}

std::string Describe(uint32_t i, uint64_t word, std::optional<std::string_view> value) {
  const auto state = [](KeyState s) {
    return absl::StrCat(NumberOf(s), IsPresent(s) ? " (a value)" : " (none)");
  };
  return absl::StrCat("key ", i, ": committed ", state(KeyExpectation::CommittedOf(word)),
                      ", pending ", state(KeyExpectation::PendingOf(word)), "; found ",
                      value.has_value()
                          ? absl::StrCat(value->size(), " bytes that say number ", NumberIn(*value))
                          : "none");
}

}  // namespace daxkv::kv
