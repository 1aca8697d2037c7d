#include "tests/dax_vm/power_cord.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace daxkv::dax_vm {
namespace {

// splitmix64: a sequence that its seed determines on every machine.
class Random {
 public:
  Random(uint64_t seed, unsigned writer, uint64_t number)
      : state_(seed + writer * 0x9e3779b97f4a7c15u + number * 0xd1342543de82ef95u) {
    Next();
  }
  uint64_t Next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // In [low, high].
  uint64_t Between(uint64_t low, uint64_t high) { return low + Next() % (high - low + 1); }

 private:
  uint64_t state_;
};

size_t ValueSizeBytes(Random& random) {
  const uint64_t percent = random.Between(0, 99);
  if (percent < 70) return random.Between(1, 400);
  if (percent < 90) return random.Between(4 << 10, 32 << 10);
  if (percent < 99) return random.Between(64 << 10, 512 << 10);
  return random.Between(2 << 20, 5 << 20);
}

Operation MakeOperation(uint64_t seed, unsigned writer, uint64_t number, const Slots& slots,
                        bool overwrites) {
  Random random(~seed, writer, number);
  Operation operation;
  operation.writer = writer;
  operation.number = number;
  operation.slot = static_cast<unsigned>(random.Between(0, kSlots - 1));
  operation.is_delete = slots[operation.slot] != 0 && (!overwrites || random.Between(0, 3) == 0);
  return operation;
}

void Advance(const Operation& operation, Slots& slots) {
  slots[operation.slot] = operation.is_delete ? 0 : operation.number;
}

// The operation that left `found`: `acknowledged` or one of the next ones. Leaves its state in
// `slots`.
absl::StatusOr<uint64_t> LastOperation(uint64_t seed, unsigned writer, uint64_t acknowledged,
                                       bool overwrites, const Slots& found, Slots& slots) {
  slots = {};
  uint64_t number = 0;
  for (; number < acknowledged;) {
    Advance(MakeOperation(seed, writer, ++number, slots, overwrites), slots);
  }
  const Slots before = slots;
  for (; slots != found && number < acknowledged + kMostUnseen;) {
    Advance(MakeOperation(seed, writer, ++number, slots, overwrites), slots);
  }
  if (slots == found) return number;
  std::string differences;
  for (unsigned slot = 0; slot < kSlots; ++slot) {
    if (found[slot] == before[slot]) continue;
    absl::StrAppend(&differences, "; slot ", slot, " has ", found[slot], ", not ", before[slot]);
  }
  return absl::DataLossError(absl::StrCat("writer ", writer, ", acknowledged up to ", acknowledged,
                                          " (0 is: no value), and no later operation left this",
                                          differences));
}

// One write call for each line, which the kernel doesn't mix with another's.
void Print(const std::string& line) {
  const std::string text = line + "\n";
  for (std::string_view rest = text; !rest.empty();) {
    const ssize_t written = write(STDOUT_FILENO, rest.data(), rest.size());
    if (written <= 0) std::_Exit(3);
    rest.remove_prefix(static_cast<size_t>(written));
  }
}

absl::Status WriteForever(uint64_t seed, unsigned writer, uint64_t number, Slots slots,
                          Subject& subject) {
  for (;;) {
    const Operation operation = MakeOperation(seed, writer, ++number, slots, subject.Overwrites());
    const absl::Status done = operation.is_delete
                                  ? subject.Delete(operation)
                                  : subject.Put(operation, MakeValue(seed, writer, number));
    if (!done.ok()) return done;
    Print(absl::StrCat("ack ", writer, " ", number));
    Advance(operation, slots);
  }
}

struct Arguments {
  bool write = false;
  uint64_t seed = 0;
  std::vector<uint64_t> acknowledged;
};

absl::StatusOr<Arguments> Parse(int argc, char** argv) {
  Arguments arguments;
  bool good = argc == 4;
  if (good) {
    const std::string_view mode = argv[1];
    arguments.write = mode == "write";
    good = (arguments.write || mode == "verify") && absl::SimpleAtoi(argv[2], &arguments.seed);
    for (const std::string& text : std::vector<std::string>(absl::StrSplit(argv[3], ','))) {
      arguments.acknowledged.push_back(0);
      good = good && absl::SimpleAtoi(text, &arguments.acknowledged.back());
    }
  }
  if (good && arguments.acknowledged.size() == kWriters) return arguments;
  return absl::InvalidArgumentError("usage: write|verify SEED ACK0,ACK1,ACK2,ACK3");
}

int Fail(const absl::Status& status) {
  Print(absl::StrCat("power cord: ", status.ToString()));
  return 1;
}

}  // namespace

std::string MakeValue(uint64_t seed, unsigned writer, uint64_t number) {
  Random random(seed, writer, number);
  const size_t size_bytes = ValueSizeBytes(random);
  std::string value(size_bytes, '\0');
  for (size_t offset = 0; offset < size_bytes; offset += sizeof(uint64_t)) {
    const uint64_t word = random.Next();
    std::memcpy(&value[offset], &word, std::min(sizeof(word), size_bytes - offset));
  }
  return value;
}

int RunPowerCord(int argc, char** argv, Subject& subject) {
  const absl::StatusOr<Arguments> arguments = Parse(argc, argv);
  if (!arguments.ok()) return Fail(arguments.status());
  const uint64_t seed = arguments->seed;
  const absl::StatusOr<State> found = subject.Read(seed);
  if (!found.ok()) return Fail(found.status());

  State state;
  uint64_t last[kWriters];
  for (unsigned writer = 0; writer < kWriters; ++writer) {
    const uint64_t acknowledged = arguments->acknowledged[writer];
    const absl::StatusOr<uint64_t> number = LastOperation(
        seed, writer, acknowledged, subject.Overwrites(), (*found)[writer], state[writer]);
    if (!number.ok()) return Fail(number.status());
    last[writer] = *number;
    Print(absl::StrCat("writer ", writer, ": ", acknowledged, " acknowledged, ", *number, " done"));
  }
  if (!arguments->write) {
    const absl::Status closed = subject.Close();
    return closed.ok() ? 0 : Fail(closed);
  }

  std::vector<std::thread> threads;
  for (unsigned writer = 0; writer < kWriters; ++writer) {
    // An operation that was done without an acknowledgement has one from now on.
    Print(absl::StrCat("ack ", writer, " ", last[writer]));
    threads.emplace_back([&, writer] {
      std::_Exit(Fail(WriteForever(seed, writer, last[writer], state[writer], subject)));
    });
  }
  for (;;) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    const absl::Status reclaimed = subject.Reclaim();
    if (!reclaimed.ok()) std::_Exit(Fail(reclaimed));
  }
}

}  // namespace daxkv::dax_vm
