// The commands on single records and ranges: create, put, get, del, scan, count.
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kv/db.h"
#include "tools/commands.h"
#include "tools/store.h"
#include "tools/text.h"

namespace daxkv::tools {
namespace {

// Deletes go in groups, so that an ordinary file's msyncs are shared.
constexpr size_t kKeysPerGroup = 4096;

// The smallest string above every string that begins with `prefix`; empty: there is none.
std::string PrefixEnd(std::string prefix) {
  while (!prefix.empty() && prefix.back() == '\xff') prefix.pop_back();
  if (!prefix.empty()) ++prefix.back();
  return prefix;
}

absl::StatusOr<kv::IteratorOptions> Bounds(const StoreArgs& store, const RangeArgs& range,
                                           const std::optional<std::string>& prefix) {
  kv::IteratorOptions options;
  if (prefix) {
    absl::StatusOr<std::string> bytes = ArgumentBytes(store, *prefix);
    if (!bytes.ok()) return bytes.status();
    options.upper_bound = PrefixEnd(*bytes);
    options.lower_bound = *std::move(bytes);
  }
  if (range.from) {
    absl::StatusOr<std::string> from = ArgumentBytes(store, *range.from);
    if (!from.ok()) return from.status();
    options.lower_bound = std::max(options.lower_bound, *from);
  }
  if (range.to) {
    absl::StatusOr<std::string> to = ArgumentBytes(store, *range.to);
    if (!to.ok()) return to.status();
    if (to->empty())
      return absl::InvalidArgumentError("--to must not be empty: nothing lies before it");
    if (options.upper_bound.empty() || *to < options.upper_bound)
      options.upper_bound = *std::move(to);
  }
  return options;
}

absl::Status DeleteKeys(kv::Db& db, const std::vector<std::string>& keys) {
  std::string missing;
  for (const std::string& key : keys) {
    const absl::Status status = db.Delete(key);
    if (absl::IsNotFound(status))
      absl::StrAppend(&missing, missing.empty() ? "" : ", ", Escaped(key));
    else if (!status.ok())
      return status;
  }
  if (missing.empty()) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("no such key: ", missing));
}

absl::Status DeleteRange(kv::Db& db, kv::IteratorOptions bounds) {
  bounds.keys_only = true;
  const std::unique_ptr<kv::Iterator> it = db.NewIterator(std::move(bounds));
  uint64_t deleted = 0;
  std::vector<std::string> keys;
  const auto delete_group = [&]() -> absl::Status {
    const std::vector<std::string_view> views(keys.begin(), keys.end());
    absl::StatusOr<kv::GroupResult> result = db.DeleteGroup(views);
    if (!result.ok())
      return absl::Status(result.status().code(),
                          absl::StrCat("after ", deleted, " records: ", result.status().message()));
    deleted += result->replaced;
    keys.clear();
    return absl::OkStatus();
  };
  for (it->SeekToFirst(); it->Valid() && !Interrupted(); it->Next()) {
    keys.emplace_back(it->key());
    if (keys.size() < kKeysPerGroup) continue;
    if (absl::Status status = delete_group(); !status.ok()) return status;
  }
  if (!it->status().ok()) return it->status();
  if (absl::Status status = delete_group(); !status.ok()) return status;
  if (absl::Status status = WriteTo(stdout, absl::StrCat("deleted ", deleted, " records\n"));
      !status.ok())
    return status;
  if (Interrupted())
    return absl::CancelledError("interrupted; the rest of the range is still there");
  return FlushTo(stdout);
}

}  // namespace

absl::Status Create(const StoreArgs& store, const CreateArgs& args) {
  kv::Options options;
  options.error_if_exists = true;
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
  absl::StatusOr<std::unique_ptr<kv::Db>> db = kv::Db::Open(store.path, options);
  if (!db.ok()) return db.status();
  return (*db)->Close();
}

absl::Status Put(const StoreArgs& store, const PutArgs& args) {
  absl::StatusOr<std::string> key = ArgumentBytes(store, args.key);
  if (!key.ok()) return key.status();
  absl::StatusOr<std::string> value = args.value
                                          ? ArgumentBytes(store, *args.value)
                                          : ReadWholeFile(args.value_file, kv::kMaxValueSizeBytes);
  if (!value.ok()) return value.status();
  return WithStore(store, IfMissing::kCreate, [&](kv::Db& db) { return db.Put(*key, *value); });
}

absl::Status Get(const StoreArgs& store, const std::string& key_argument) {
  absl::StatusOr<std::string> key = ArgumentBytes(store, key_argument);
  if (!key.ok()) return key.status();
  return WithStore(store, IfMissing::kFail, [&](kv::Db& db) -> absl::Status {
    absl::StatusOr<kv::PinnedValue> value = db.Pin(*key);
    if (absl::IsNotFound(value.status()))
      return absl::NotFoundError(absl::StrCat("no such key: ", Escaped(*key)));
    if (!value.ok()) return value.status();
    if (absl::Status status = WriteTo(stdout, value->value()); !status.ok()) return status;
    // Exactly the value's bytes into a pipe or file; a line of its own for a person.
    if (isatty(STDOUT_FILENO) == 1)
      if (absl::Status status = WriteTo(stdout, "\n"); !status.ok()) return status;
    return FlushTo(stdout);
  });
}

absl::Status Del(const StoreArgs& store, const DelArgs& args) {
  const bool has_range = args.range.from.has_value() || args.range.to.has_value();
  if (has_range == !args.keys.empty())
    return absl::InvalidArgumentError("del takes keys, or --from and --to: one of the two");
  if (has_range && !(args.range.from && args.range.to))
    return absl::InvalidArgumentError("del of a range takes both --from and --to");
  absl::StatusOr<kv::IteratorOptions> bounds = Bounds(store, args.range, std::nullopt);
  if (!bounds.ok()) return bounds.status();
  std::vector<std::string> keys;
  for (const std::string& argument : args.keys) {
    absl::StatusOr<std::string> key = ArgumentBytes(store, argument);
    if (!key.ok()) return key.status();
    keys.push_back(*std::move(key));
  }
  CatchInterrupts();
  return WithStore(store, IfMissing::kFail, [&](kv::Db& db) {
    return has_range ? DeleteRange(db, *std::move(bounds)) : DeleteKeys(db, keys);
  });
}

absl::Status Scan(const StoreArgs& store, const ScanArgs& args) {
  absl::StatusOr<kv::IteratorOptions> bounds = Bounds(store, args.range, args.prefix);
  if (!bounds.ok()) return bounds.status();
  bounds->keys_only = args.keys_only;
  CatchInterrupts();
  return WithStore(store, IfMissing::kFail, [&](kv::Db& db) -> absl::Status {
    const std::unique_ptr<kv::Iterator> it = db.NewIterator(*bounds);
    uint64_t left = args.limit.value_or(UINT64_MAX);
    std::string line;
    for (it->SeekToFirst(); left > 0 && it->Valid() && !Interrupted(); it->Next(), --left) {
      line.clear();
      AppendEscaped(it->key(), &line);
      if (!args.keys_only) {
        line.push_back('\t');
        AppendEscaped(it->value(), &line);
      }
      line.push_back('\n');
      if (absl::Status status = WriteTo(stdout, line); !status.ok()) return status;
    }
    if (!it->status().ok()) return it->status();
    if (Interrupted()) return absl::CancelledError("interrupted");
    return FlushTo(stdout);
  });
}

absl::Status Count(const StoreArgs& store) {
  return WithStore(store, IfMissing::kFail, [](kv::Db& db) -> absl::Status {
    absl::StatusOr<kv::Info> info = db.GetInfo();
    if (!info.ok()) return info.status();
    if (absl::Status status = WriteTo(stdout, absl::StrCat(info->records, "\n")); !status.ok())
      return status;
    return FlushTo(stdout);
  });
}

}  // namespace daxkv::tools
