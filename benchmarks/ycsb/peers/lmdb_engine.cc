// LMDB: a copy-on-write B+ tree in a mapped file, one writer at a time. Every put is a transaction.
// Reads renew the session's read transaction and look at the bytes in the map. With writemap a
// commit stores into the map itself, without it writes the changed pages to the file: either way it
// survives the process with sync=none, and nothing waits for the medium.
#include <lmdb.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "benchmarks/ycsb/engine.h"
#include "benchmarks/ycsb/peers/peer_store.h"

namespace daxkv::ycsb {
namespace {

absl::Status ToStatus(int code, std::string_view what) {
  if (code == MDB_SUCCESS) return absl::OkStatus();
  const std::string message = absl::StrCat("lmdb: ", std::string(what), ": ", mdb_strerror(code));
  switch (code) {
    case MDB_NOTFOUND:
      return absl::NotFoundError(message);
    case MDB_MAP_FULL:
      return absl::ResourceExhaustedError(
          absl::StrCat(message, ": give more with -p lmdb.mapsize=BYTES"));
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
      return absl::DataLossError(message);
    default:
      return absl::InternalError(message);
  }
}

MDB_val ToValue(std::string_view bytes) {
  return {bytes.size(), const_cast<char*>(bytes.data())};  // LMDB only reads what it is given.
}
std::string_view ToView(const MDB_val& value) {
  return {static_cast<const char*>(value.mv_data), value.mv_size};
}

class LmdbSession final : public Session {
 public:
  LmdbSession(MDB_env* env, MDB_dbi table) : env_(env), table_(table) {}
  ~LmdbSession() override {
    if (reader_ != nullptr) mdb_txn_abort(reader_);
  }

  absl::Status Read(std::string_view key, std::string_view* record) override {
    if (absl::Status status = BeginRead(); !status.ok()) return status;
    return Get(key, record);
  }

  absl::Status ReadGroup(absl::Span<const std::string_view> keys, RecordSink* sink) override {
    if (absl::Status status = BeginRead(); !status.ok()) return status;
    std::string_view record;
    for (const std::string_view key : keys) {
      if (absl::Status status = Get(key, &record); !status.ok()) return status;
      sink->Add(key, record);
    }
    return absl::OkStatus();
  }

  absl::Status Scan(std::string_view start, size_t count, RecordSink* sink) override {
    if (absl::Status status = BeginRead(); !status.ok()) return status;
    MDB_cursor* cursor;
    if (const int code = mdb_cursor_open(reader_, table_, &cursor); code != 0) {
      return ToStatus(code, "cannot open a cursor");
    }
    MDB_val key = ToValue(start), value;
    int code = count > 0 ? mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE) : MDB_NOTFOUND;
    while (code == MDB_SUCCESS) {
      sink->Add(ToView(key), ToView(value));
      code = --count > 0 ? mdb_cursor_get(cursor, &key, &value, MDB_NEXT) : MDB_NOTFOUND;
    }
    mdb_cursor_close(cursor);
    return code == MDB_NOTFOUND ? absl::OkStatus() : ToStatus(code, "a scan fails");
  }

  absl::Status Insert(std::string_view key, std::string_view record) override {
    return Put(key, record);
  }
  absl::Status Update(std::string_view key, std::string_view record) override {
    return Put(key, record);
  }
  absl::Status Delete(std::string_view key) override {
    return Write("a delete fails", [&](MDB_txn* transaction) {
      MDB_val mdb_key = ToValue(key);
      return mdb_del(transaction, table_, &mdb_key, nullptr);
    });
  }

 private:
  // Views of the last read end here.
  absl::Status BeginRead() {
    EndRead();
    const int code = reader_ != nullptr ? mdb_txn_renew(reader_)
                                        : mdb_txn_begin(env_, nullptr, MDB_RDONLY, &reader_);
    reading_ = code == MDB_SUCCESS;
    return ToStatus(code, "cannot begin to read");
  }
  void EndRead() {
    if (reading_) mdb_txn_reset(reader_);
    reading_ = false;
  }
  absl::Status Get(std::string_view key, std::string_view* record) {
    MDB_val mdb_key = ToValue(key), value;
    if (const int code = mdb_get(reader_, table_, &mdb_key, &value); code != MDB_SUCCESS) {
      return ToStatus(code, "a read fails");
    }
    *record = ToView(value);
    return absl::OkStatus();
  }
  absl::Status Put(std::string_view key, std::string_view record) {
    return Write("a put fails", [&](MDB_txn* transaction) {
      MDB_val mdb_key = ToValue(key), value = ToValue(record);
      return mdb_put(transaction, table_, &mdb_key, &value, 0);
    });
  }
  template <typename Change>
  absl::Status Write(std::string_view what, Change change) {
    EndRead();
    MDB_txn* transaction;
    int code = mdb_txn_begin(env_, nullptr, 0, &transaction);
    if (code != MDB_SUCCESS) return ToStatus(code, "cannot begin to write");
    code = change(transaction);
    if (code != MDB_SUCCESS) {
      mdb_txn_abort(transaction);
      return ToStatus(code, what);
    }
    return ToStatus(mdb_txn_commit(transaction), what);
  }

  MDB_env* const env_;
  const MDB_dbi table_;
  MDB_txn* reader_ = nullptr;
  bool reading_ = false;
};

class LmdbEngine final : public Engine {
 public:
  LmdbEngine(const Settings& settings, MDB_env* env)
      : path_(settings.Text("lmdb.path")),
        sync_(settings.Text("lmdb.sync")),
        write_map_(settings.Flag("lmdb.writemap")),
        env_(env) {}
  ~LmdbEngine() override {
    if (env_ != nullptr) mdb_env_close(env_);
  }

  absl::Status OpenTable() {
    MDB_txn* transaction;
    int code = mdb_txn_begin(env_, nullptr, 0, &transaction);
    if (code == MDB_SUCCESS) {
      code = mdb_dbi_open(transaction, nullptr, 0, &table_);
      if (code == MDB_SUCCESS) {
        code = mdb_txn_commit(transaction);
      } else {
        mdb_txn_abort(transaction);
      }
    }
    return ToStatus(code, absl::StrCat("cannot open the table in ", path_));
  }

  absl::StatusOr<std::unique_ptr<Session>> NewSession() override {
    return std::make_unique<LmdbSession>(env_, table_);
  }

  absl::StatusOr<std::vector<ReportLine>> Report() override {
    MDB_envinfo info;
    MDB_stat stat;
    if (const int code = mdb_env_info(env_, &info); code != MDB_SUCCESS) {
      return ToStatus(code, "no information");
    }
    if (const int code = mdb_env_stat(env_, &stat); code != MDB_SUCCESS) {
      return ToStatus(code, "no statistics");
    }
    return std::vector<ReportLine>{
        {"LMDB", "Promise", FilePromise(path_, sync_ == "full")},
        {"LMDB", "FileSystem", FileSystemName(path_)},
        {"LMDB", "Path", path_},
        {"LMDB", "Sync", sync_},
        {"LMDB", "WriteMap", write_map_ ? "true" : "false"},
        {"LMDB", "Compression", "none"},
        {"LMDB", "Records", absl::StrCat(stat.ms_entries)},
        {"LMDB", "Used(bytes)", absl::StrCat((info.me_last_pgno + 1) * stat.ms_psize)},
        {"LMDB", "Version", mdb_version(nullptr, nullptr, nullptr)}};
  }

  absl::Status Close() override {
    mdb_env_close(std::exchange(env_, nullptr));
    return absl::OkStatus();
  }

 private:
  const std::string path_, sync_;
  const bool write_map_;
  MDB_env* env_;
  MDB_dbi table_ = 0;
};

absl::StatusOr<std::unique_ptr<Engine>> OpenLmdb(const Settings& settings, Phase phase) {
  const std::string& path = settings.Text("lmdb.path");
  if (absl::Status status = PrepareDirectory(path, "lmdb.path", phase); !status.ok()) return status;
  MDB_env* env;
  if (const int code = mdb_env_create(&env); code != MDB_SUCCESS) {
    return ToStatus(code, "cannot make an environment");
  }
  auto engine = std::make_unique<LmdbEngine>(settings, env);
  // Read transactions belong to sessions, which are made in one thread and used in another.
  unsigned flags = MDB_NOTLS | MDB_NORDAHEAD;
  if (settings.Flag("lmdb.writemap")) flags |= MDB_WRITEMAP;
  if (settings.Text("lmdb.sync") == "none") flags |= MDB_NOSYNC;
  if (settings.Text("lmdb.sync") == "nometa") flags |= MDB_NOMETASYNC;
  constexpr unsigned kMaxReaders = 2048;
  int code = mdb_env_set_mapsize(env, static_cast<size_t>(settings.Whole("lmdb.mapsize")));
  if (code == MDB_SUCCESS) code = mdb_env_set_maxreaders(env, kMaxReaders);
  if (code == MDB_SUCCESS) code = mdb_env_open(env, path.c_str(), flags, 0644);
  if (code != MDB_SUCCESS) return ToStatus(code, absl::StrCat("cannot open ", path));
  if (absl::Status status = engine->OpenTable(); !status.ok()) return status;
  return engine;
}

const EngineRegistration kRegistration(
    {"lmdb",
     "LMDB: a copy-on-write B+ tree, mapped",
     {
         TextRule("lmdb.path", "./ycsb-lmdb.db", "the store's directory"),
         ChoiceRule("lmdb.sync", {"none", "nometa", "full"},
                    "what a put waits for: nothing, its data (and the meta page before it), all"),
         FlagRule("lmdb.writemap", true, "store into the map, rather than write to the file"),
         WholeRule("lmdb.mapsize", absl::StrCat(INT64_C(1) << 36), INT64_C(1) << 20,
                   INT64_C(1) << 46, "bytes that the store may grow to"),
     },
     OpenLmdb});

}  // namespace
}  // namespace daxkv::ycsb
