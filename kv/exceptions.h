// Keeps the standard library's exceptions, in practice std::bad_alloc, inside public calls.
#ifndef DAXKV_KV_EXCEPTIONS_H_
#define DAXKV_KV_EXCEPTIONS_H_

#include <exception>
#include <new>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace daxkv::kv {

// Returns function(), a Status or StatusOr, or kResourceExhausted when memory ran out in it.
template <typename Function>
auto WithoutExceptions(Function&& function) -> decltype(function()) {
  try {
    return function();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  } catch (const std::exception& exception) {
    return absl::InternalError(absl::StrCat("unexpected exception: ", exception.what()));
  }
}

}  // namespace daxkv::kv

#endif  // DAXKV_KV_EXCEPTIONS_H_
