// CheckInvariant: stops the process when what must hold does not, in every build.
#ifndef DAXKV_DAX_INVARIANT_H_
#define DAXKV_DAX_INVARIANT_H_

namespace daxkv::dax {

namespace internal {
// Prints the message to stderr and aborts.
[[noreturn]] void InvariantBroken(const char* message);
}  // namespace internal

// For errors of the program, never of its input: going on would risk somebody's data.
inline void CheckInvariant(bool holds, const char* message) {
  if (__builtin_expect(!holds, false)) internal::InvariantBroken(message);
}

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_INVARIANT_H_
