#include "tools/store.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/text.h"

namespace daxkv::tools {
namespace {

volatile std::sig_atomic_t interrupted = 0;

void NoteInterrupt(int /*signal*/) { interrupted = 1; }

absl::Status WithPath(const std::string& path, const absl::Status& status) {
  const std::string_view message(status.message().data(), status.message().size());
  if (message.find(path) != std::string_view::npos) return status;
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

}  // namespace

absl::Status WithStore(const StoreArgs& store, IfMissing if_missing,
                       const std::function<absl::Status(kv::Db&)>& body) {
  kv::Options options;
  options.create_if_missing = if_missing == IfMissing::kCreate;
  if (store.durability == dax::DurabilityName(dax::Durability::kProcess)) {
    options.durability = dax::Durability::kProcess;
  }
  absl::StatusOr<std::unique_ptr<kv::Db>> db = kv::Db::Open(store.path, options);
  if (absl::IsNotFound(db.status())) {
    // Exit code 1 is for keys; a missing store is a mistake in the command or the path.
    return absl::FailedPreconditionError(absl::StrCat(
        "no store at ", store.path, " (name one with --db, or make one with put, load or create)"));
  }
  if (!db.ok()) return WithPath(store.path, db.status());
  absl::Status status = body(**db);
  const absl::Status closed = (*db)->Close();
  if (status.ok() && !closed.ok()) return WithPath(store.path, closed);
  return status;
}

absl::Status WithKeyspace(const StoreArgs& store, IfMissing if_missing,
                          const std::function<absl::Status(kv::Db&, kv::Keyspace&)>& body) {
  return WithStore(store, if_missing, [&](kv::Db& db) -> absl::Status {
    if (!store.keyspace.has_value()) return body(db, db);
    absl::StatusOr<std::string> name = ArgumentBytes(store, *store.keyspace);
    if (!name.ok()) return name.status();
    absl::StatusOr<kv::Keyspace> keyspace = db.OpenKeyspace(*name);
    if (!keyspace.ok()) return keyspace.status();
    return body(db, *keyspace);
  });
}

absl::StatusOr<kv::Options> OptionsOf(const CreateArgs& args) {
  kv::Options options;
  if (!args.fixed_size.empty()) {
    absl::StatusOr<uint64_t> size_bytes = ParseBytes(args.fixed_size);
    if (!size_bytes.ok()) return size_bytes.status();
    options.shape = dax::PoolShape::kFixed;
    options.fixed_size_bytes = *size_bytes;
  }
  if (!args.max_size.empty()) {
    absl::StatusOr<uint64_t> size_bytes = ParseBytes(args.max_size);
    if (!size_bytes.ok()) return size_bytes.status();
    options.max_size_bytes = *size_bytes;
  }
  return options;
}

absl::StatusOr<std::string> ArgumentBytes(const StoreArgs& store, std::string_view argument) {
  if (!store.escaped) return std::string(argument);
  return Unescaped(argument);
}

absl::StatusOr<std::string> ReadWholeFile(const std::string& file, uint64_t limit_bytes) {
  const bool is_stdin = file == "-";
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> opened(
      is_stdin ? nullptr : std::fopen(file.c_str(), "rb"),
      [](std::FILE* stream) { return stream == nullptr ? 0 : std::fclose(stream); });
  if (!is_stdin && opened == nullptr)
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", file)).code() ==
                   absl::StatusCode::kNotFound
               ? absl::UnavailableError(absl::StrCat("no such file: ", file))
               : absl::UnavailableError(
                     absl::StrCat("cannot open ", file, ": ", std::strerror(errno)));
  std::FILE* stream = is_stdin ? stdin : opened.get();
  std::string bytes;
  char buffer[1 << 16];
  size_t got = 0;
  while ((got = std::fread(buffer, 1, sizeof(buffer), stream)) > 0) {
    bytes.append(buffer, got);
    if (bytes.size() > limit_bytes)
      return absl::InvalidArgumentError(
          absl::StrCat(is_stdin ? "stdin" : file, " is longer than ", HumanBytes(limit_bytes)));
  }
  if (std::ferror(stream) != 0)
    return absl::UnavailableError(
        absl::StrCat("reading ", is_stdin ? "stdin" : file, " failed: ", std::strerror(errno)));
  return bytes;
}

absl::Status WriteTo(std::FILE* stream, std::string_view bytes) {
  if (std::fwrite(bytes.data(), 1, bytes.size(), stream) != bytes.size())
    return absl::UnavailableError(
        absl::StrCat("writing the output failed: ", std::strerror(errno)));
  return absl::OkStatus();
}

absl::Status FlushTo(std::FILE* stream) {
  if (std::fflush(stream) != 0)
    return absl::UnavailableError(
        absl::StrCat("writing the output failed: ", std::strerror(errno)));
  return absl::OkStatus();
}

void CatchInterrupts() {
  struct sigaction action = {};
  action.sa_handler = NoteInterrupt;
  sigemptyset(&action.sa_mask);
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // A second Ctrl-C ends the program at once.
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool Interrupted() { return interrupted != 0; }

}  // namespace daxkv::tools
