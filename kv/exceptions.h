// dax/exceptions.h for kv/.
#ifndef DAXKV_KV_EXCEPTIONS_H_
#define DAXKV_KV_EXCEPTIONS_H_

#include "dax/exceptions.h"

namespace daxkv::kv {

using dax::MakeStatus;
using dax::WithoutExceptions;

}  // namespace daxkv::kv

#endif  // DAXKV_KV_EXCEPTIONS_H_
