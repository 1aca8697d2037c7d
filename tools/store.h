// What the commands share: opening and closing the store, stdin and stdout with their errors.
#ifndef DAXKV_TOOLS_STORE_H_
#define DAXKV_TOOLS_STORE_H_

#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kv/db.h"
#include "tools/commands.h"

namespace daxkv::tools {

enum class IfMissing { kCreate, kFail };

// Opens the store, runs `body`, closes the store. The first status that is not OK is returned,
// with the store's path in front when it comes from opening or closing.
absl::Status WithStore(const StoreArgs& store, IfMissing if_missing,
                       const std::function<absl::Status(kv::Db&)>& body);

// The same with the keyspace that --keyspace names, which must be there, or the default one.
absl::Status WithKeyspace(const StoreArgs& store, IfMissing if_missing,
                          const std::function<absl::Status(kv::Db&, kv::Keyspace&)>& body);

// Options for a new store. kInvalidArgument: not a size.
absl::StatusOr<kv::Options> OptionsOf(const CreateArgs& args);

// The bytes of a key or value argument: as they are, or unescaped with --escaped.
absl::StatusOr<std::string> ArgumentBytes(const StoreArgs& store, std::string_view argument);

// A whole file or stdin ("-"), at most `limit_bytes`. kNotFound, kPermissionDenied, kUnavailable
// with the name; kInvalidArgument when it is longer.
absl::StatusOr<std::string> ReadWholeFile(const std::string& file, uint64_t limit_bytes);

// Writes to `stream`; a failure (a full disk, a closed pipe) is kUnavailable with errno's text.
absl::Status WriteTo(std::FILE* stream, std::string_view bytes);
absl::Status FlushTo(std::FILE* stream);

// Set by SIGINT and SIGTERM once the long commands have asked for it: they stop between groups
// and close the store cleanly.
void CatchInterrupts();
bool Interrupted();

}  // namespace daxkv::tools

#endif  // DAXKV_TOOLS_STORE_H_
