// What every target here defines, as libFuzzer wants it: does something with any bytes whatever,
// and ends the process when that goes wrong.
#ifndef DAXKV_TESTS_FUZZ_FUZZ_TARGET_H_
#define DAXKV_TESTS_FUZZ_FUZZ_TARGET_H_

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

// Returns 0.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size_bytes);

namespace daxkv::fuzz {

inline void Require(bool holds, std::string_view what) {
  if (holds) return;
  std::fprintf(stderr, "found: %.*s\n", static_cast<int>(what.size()), what.data());
  std::abort();
}

// Takes fields off the front of an input. Past its end everything is zero.
class Input {
 public:
  Input(const uint8_t* bytes, size_t size_bytes)
      : rest_(reinterpret_cast<const char*>(bytes), size_bytes) {}

  template <typename T>
  T Take() {
    T value = 0;
    for (size_t i = 0; i < sizeof(T) && !rest_.empty(); ++i) {
      value =
          static_cast<T>(value | static_cast<T>(static_cast<unsigned char>(rest_[0])) << (8 * i));
      rest_.remove_prefix(1);
    }
    return value;
  }
  std::string_view TakeBytes(size_t most) {
    const std::string_view taken = rest_.substr(0, most);
    rest_.remove_prefix(taken.size());
    return taken;
  }
  bool empty() const { return rest_.empty(); }

 private:
  std::string_view rest_;
};

}  // namespace daxkv::fuzz

#endif  // DAXKV_TESTS_FUZZ_FUZZ_TARGET_H_
