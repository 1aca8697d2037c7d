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
#include "tools/batch_file.h"
#include "tools/commands.h"
#include "tools/store.h"
#include "tools/text.h"

namespace daxkv::tools {
namespace {

// Of a batch's file: as much as one value may have.
constexpr uint64_t kMaxBatchFileSizeBytes = kv::kMaxValueSizeBytes;

absl::Status WriteLine(std::string_view line) {
  absl::Status status = WriteTo(stdout, std::string(line) + "\n");
  return status.ok() ? FlushTo(stdout) : status;
}

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

absl::Status DeleteKeys(kv::Keyspace& keyspace, const std::vector<std::string>& keys) {
  std::string missing;
  for (const std::string& key : keys) {
    const absl::Status status = keyspace.Delete(key);
    if (absl::IsNotFound(status))
      absl::StrAppend(&missing, missing.empty() ? "" : ", ", Escaped(key));
    else if (!status.ok())
      return status;
  }
  if (missing.empty()) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("no such key: ", missing));
}

absl::Status DeleteRange(kv::Keyspace& keyspace, const kv::IteratorOptions& bounds) {
  // An empty range may also be said the wrong way round.
  if (!bounds.upper_bound.empty() && bounds.upper_bound <= bounds.lower_bound) {
    return WriteLine("deleted 0 records");
  }
  absl::StatusOr<uint64_t> deleted = keyspace.DeleteRange(bounds.lower_bound, bounds.upper_bound);
  if (!deleted.ok()) return deleted.status();
  return WriteLine(absl::StrCat("deleted ", *deleted, " records"));
}

// The bytes of an optional argument.
absl::StatusOr<std::optional<std::string>> OptionalBytes(
    const StoreArgs& store, const std::optional<std::string>& argument) {
  if (!argument.has_value()) return std::optional<std::string>();
  absl::StatusOr<std::string> bytes = ArgumentBytes(store, *argument);
  if (!bytes.ok()) return bytes.status();
  return std::optional<std::string>(*std::move(bytes));
}

// The same operations, in the keyspace.
absl::StatusOr<kv::WriteBatch> BatchIn(const kv::Keyspace& keyspace, const kv::WriteBatch& batch) {
  kv::WriteBatch result;
  for (size_t i = 0; i < batch.Count(); ++i) {
    const kv::WriteBatch::Operation operation = batch.operation(i);
    const absl::Status added = operation.value.has_value()
                                   ? result.Put(keyspace, operation.key, *operation.value)
                                   : result.Delete(keyspace, operation.key);
    if (!added.ok()) return added;
  }
  return result;
}

}  // namespace

absl::Status Create(const StoreArgs& store, const CreateArgs& args) {
  absl::StatusOr<kv::Options> options = OptionsOf(args);
  if (!options.ok()) return options.status();
  options->error_if_exists = true;
  absl::StatusOr<std::unique_ptr<kv::Db>> db = kv::Db::Open(store.path, *options);
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
  return WithKeyspace(store, IfMissing::kCreate, [&](kv::Db&, kv::Keyspace& keyspace) {
    if (!args.if_absent) return keyspace.Put(*key, *value);
    absl::Status inserted = keyspace.Insert(*key, *value);
    if (!absl::IsAlreadyExists(inserted)) return inserted;
    return absl::AbortedError(absl::StrCat("the key has a value: ", Escaped(*key)));
  });
}

absl::Status Cas(const StoreArgs& store, const CasArgs& args) {
  if (args.expected.has_value() == args.expect_absent)
    return absl::InvalidArgumentError("cas takes --expect or --expect-absent: one of the two");
  if (args.desired.has_value() == args.deletes)
    return absl::InvalidArgumentError("cas takes --set or --delete: one of the two");
  absl::StatusOr<std::string> key = ArgumentBytes(store, args.key);
  if (!key.ok()) return key.status();
  const absl::StatusOr<std::optional<std::string>> expected = OptionalBytes(store, args.expected);
  if (!expected.ok()) return expected.status();
  const absl::StatusOr<std::optional<std::string>> desired = OptionalBytes(store, args.desired);
  if (!desired.ok()) return desired.status();
  return WithKeyspace(store, IfMissing::kCreate, [&](kv::Db&, kv::Keyspace& keyspace) {
    return keyspace.CompareAndSwap(*key, *expected, *desired);
  });
}

absl::Status Batch(const StoreArgs& store, const std::string& file) {
  const absl::StatusOr<std::string> text = ReadWholeFile(file, kMaxBatchFileSizeBytes);
  if (!text.ok()) return text.status();
  kv::WriteBatch parsed_batch;
  if (absl::Status parsed = ParseBatch(*text, &parsed_batch); !parsed.ok())
    return absl::Status(parsed.code(),
                        absl::StrCat(file, ", ", parsed.message(), "; nothing was changed"));
  return WithKeyspace(
      store, IfMissing::kCreate, [&](kv::Db& db, kv::Keyspace& keyspace) -> absl::Status {
        const absl::StatusOr<kv::WriteBatch> batch = BatchIn(keyspace, parsed_batch);
        if (!batch.ok()) return batch.status();
        if (absl::Status written = db.Write(*batch); !written.ok()) return written;
        return WriteLine(absl::StrCat("did ", batch->Count(), " operations"));
      });
}

absl::Status Estimate(const StoreArgs& store, const RangeArgs& range) {
  const absl::StatusOr<kv::IteratorOptions> bounds = Bounds(store, range, std::nullopt);
  if (!bounds.ok()) return bounds.status();
  return WithKeyspace(
      store, IfMissing::kFail, [&](kv::Db&, kv::Keyspace& keyspace) -> absl::Status {
        const absl::StatusOr<kv::RangeEstimate> estimate =
            keyspace.ApproximateRange(bounds->lower_bound, bounds->upper_bound);
        if (!estimate.ok()) return estimate.status();
        return WriteLine(absl::StrCat(estimate->records, " records, give or take ",
                                      estimate->records_error, "; ", estimate->size_bytes,
                                      " bytes of keys and values, give or take ",
                                      estimate->size_bytes_error));
      });
}

absl::Status Get(const StoreArgs& store, const std::string& key_argument) {
  absl::StatusOr<std::string> key = ArgumentBytes(store, key_argument);
  if (!key.ok()) return key.status();
  return WithKeyspace(store, IfMissing::kFail,
                      [&](kv::Db&, kv::Keyspace& keyspace) -> absl::Status {
                        absl::StatusOr<kv::PinnedValue> value = keyspace.Pin(*key);
                        if (absl::IsNotFound(value.status()))
                          return absl::NotFoundError(absl::StrCat("no such key: ", Escaped(*key)));
                        if (!value.ok()) return value.status();
                        if (absl::Status status = WriteTo(stdout, value->value()); !status.ok())
                          return status;
                        // Exactly the value's bytes into a pipe or file; a line of its own for a
                        // person.
                        if (isatty(STDOUT_FILENO) == 1)
                          if (absl::Status status = WriteTo(stdout, "\n"); !status.ok())
                            return status;
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
  return WithKeyspace(store, IfMissing::kFail, [&](kv::Db&, kv::Keyspace& keyspace) {
    return has_range ? DeleteRange(keyspace, *bounds) : DeleteKeys(keyspace, keys);
  });
}

absl::Status Scan(const StoreArgs& store, const ScanArgs& args) {
  absl::StatusOr<kv::IteratorOptions> bounds = Bounds(store, args.range, args.prefix);
  if (!bounds.ok()) return bounds.status();
  bounds->keys_only = args.keys_only;
  CatchInterrupts();
  return WithKeyspace(
      store, IfMissing::kFail, [&](kv::Db&, kv::Keyspace& keyspace) -> absl::Status {
        const std::unique_ptr<kv::Iterator> it = keyspace.NewIterator(*bounds);
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
  return WithKeyspace(store, IfMissing::kFail, [](kv::Db&, kv::Keyspace& keyspace) -> absl::Status {
    absl::StatusOr<uint64_t> records = keyspace.Count();
    return records.ok() ? WriteLine(absl::StrCat(*records)) : records.status();
  });
}

}  // namespace daxkv::tools
