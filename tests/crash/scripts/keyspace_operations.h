// Operations on keyspaces besides the default one, for scripts.
//
// In a model (script.h) a keyspace is the key "@NAME" with an empty value, and its records are the
// keys "@NAME/KEY" (judge.cc).
#ifndef DAXKV_TESTS_CRASH_SCRIPTS_KEYSPACE_OPERATIONS_H_
#define DAXKV_TESTS_CRASH_SCRIPTS_KEYSPACE_OPERATIONS_H_

#include <string>
#include <vector>

#include "tests/crash/script.h"

namespace daxkv::crash {

// The model's key of a keyspace's key.
std::string In(const std::string& name, const std::string& key);
std::vector<std::string> In(const std::string& name, std::vector<std::string> keys);

Operation Create(const std::string& name);
// With the keys that it has.
Operation Drop(const std::string& name, const std::vector<std::string>& keys);
// Of keys as In makes them, and of others.
Operation BatchAcross(const std::vector<std::string>& put, size_t size_bytes,
                      const std::vector<std::string>& deleted = {});
Operation PutIn(const std::string& name, const std::string& key, size_t size_bytes);

}  // namespace daxkv::crash

#endif  // DAXKV_TESTS_CRASH_SCRIPTS_KEYSPACE_OPERATIONS_H_
