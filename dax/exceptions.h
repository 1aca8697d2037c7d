// Keeps the standard library's exceptions, in practice std::bad_alloc, inside public calls.
//
// How exceptions are dealt with here: every public call of Pool, Mapping, Index, Space and Db turns
// them into a status. (What has none to return throws std::bad_alloc: a Mapping's constructor,
// ReportPins, ListLostPages.) Inside, what a call holds (locks, slots, runs) belongs to objects
// whose destructors give it back. From the store that commits a change to the end of its
// consequences nothing may throw: what that part needs is allocated before, and it is noexcept.
// Abseil's hash tables (as of 20220623) are broken for ever by an allocation that throws; std's are
// used.
#ifndef DAXKV_DAX_EXCEPTIONS_H_
#define DAXKV_DAX_EXCEPTIONS_H_

#include <cerrno>
#include <exception>
#include <new>
#include <string_view>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace daxkv::dax {

// A status with a message made of `parts` as by absl::StrCat; without one if there is no memory for
// it.
template <typename... Parts>
absl::Status MakeStatus(absl::StatusCode code, const Parts&... parts) noexcept {
  try {
    return absl::Status(code, absl::StrCat(parts...));
  } catch (const std::bad_alloc&) {
    return absl::Status(code, "");  // Needs none.
  }
}

// Returns function(), a Status or StatusOr, or kResourceExhausted when memory (or threads) ran out
// in it.
template <typename Function>
auto WithoutExceptions(Function&& function) noexcept -> decltype(function()) {
  using absl::StatusCode;
  try {
    return function();
  } catch (const std::bad_alloc&) {
    return MakeStatus(StatusCode::kResourceExhausted, "out of memory");
  } catch (const std::system_error& error) {
    const int number = error.code().value();
    const bool exhausted = number == EAGAIN || number == ENOMEM;
    return MakeStatus(exhausted ? StatusCode::kResourceExhausted : StatusCode::kInternal,
                      "the system refused: ", error.what());
  } catch (const std::exception& exception) {
    return MakeStatus(StatusCode::kInternal, "unexpected exception: ", exception.what());
  }
}

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_EXCEPTIONS_H_
