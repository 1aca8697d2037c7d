// What the power-cord programs share. Each runs writers that never end by themselves and
// acknowledge every operation on stdout; the host cuts the machine's power, boots it again and
// tells the program what it saw acknowledged; the program then demands exactly that of the store.
//
// The operations are a function of a seed. Each writer owns kSlots slots and works through its own
// numbered operations 1, 2, 3...; operation n picks a slot and puts a value there that only
// operation n writes, or deletes what is there. Every operation changes the state, so a writer's
// slots tell which operation was its last. If the host has seen n acknowledged, n or
// more must have been: fewer lose an acknowledged write, and a state that no number of whole
// operations leaves is half an operation, or one without an earlier one. It may be more than n + 1:
// the port's driver does not wait for the host, so a cut takes acknowledgements on their way.
#ifndef DAXKV_TESTS_DAX_VM_POWER_CORD_H_
#define DAXKV_TESTS_DAX_VM_POWER_CORD_H_

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace daxkv::dax_vm {

inline constexpr unsigned kWriters = 4;
inline constexpr unsigned kSlots = 64;
// More acknowledgements than can be on their way: the virtio port queues 128 at most.
inline constexpr uint64_t kMostUnseen = 130;

// One writer's state: the operation that wrote each slot's value, 0 where there is none.
using Slots = std::array<uint64_t, kSlots>;
using State = std::array<Slots, kWriters>;

// What operation `number` of `writer` does to slots in state `slots`.
struct Operation {
  unsigned writer = 0;
  uint64_t number = 0;
  unsigned slot = 0;
  bool is_delete = false;
};

// The value that operation `number` of `writer` puts: 1 byte to 5 MiB, mostly short.
std::string MakeValue(uint64_t seed, unsigned writer, uint64_t number);

// The store under test.
class Subject {
 public:
  virtual ~Subject() = default;
  // Whether a put may replace a value; otherwise an operation on a full slot is a delete.
  virtual bool Overwrites() const = 0;
  // Called by kWriters threads at the same time. Durable on return.
  virtual absl::Status Put(const Operation& operation, const std::string& value) = 0;
  virtual absl::Status Delete(const Operation& operation) = 0;
  // Reads everything. DataLoss when a value is not exactly the one that its operation writes, or
  // when the store's own check finds a fault. No writer runs meanwhile.
  virtual absl::StatusOr<State> Read(uint64_t seed) = 0;
  // Gives space back; called now and then while writers run.
  virtual absl::Status Reclaim() = 0;
  virtual absl::Status Close() = 0;
};

// The program: `write SEED ACKNOWLEDGED` or `verify SEED ACKNOWLEDGED`, where ACKNOWLEDGED is the
// last acknowledged operation of each writer, as in 12,9,0,44. Both verify; write goes on from
// there until the power is cut, printing "ack WRITER NUMBER" for each operation. Returns the exit
// code.
int RunPowerCord(int argc, char** argv, Subject& subject);

}  // namespace daxkv::dax_vm

#endif  // DAXKV_TESTS_DAX_VM_POWER_CORD_H_
