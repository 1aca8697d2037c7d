// WiredTiger: a B-tree with a cache of its own and a write-ahead log. A put commits by itself; with
// sync=write its log record has been written to the file when it returns.
#include <wiredtiger.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "benchmarks/ycsb/engine.h"
#include "benchmarks/ycsb/peers/peer_store.h"

namespace daxkv::ycsb {
namespace {

constexpr char kTable[] = "table:ycsb";

absl::Status ToStatus(int code, std::string_view what) {
  if (code == 0) return absl::OkStatus();
  const std::string message =
      absl::StrCat("wiredtiger: ", std::string(what), ": ", wiredtiger_strerror(code));
  switch (code) {
    case WT_NOTFOUND:
      return absl::NotFoundError(message);
    case WT_CACHE_FULL:
    case ENOSPC:
      return absl::ResourceExhaustedError(message);
    default:
      return absl::InternalError(message);
  }
}

WT_ITEM ToItem(std::string_view bytes) {
  WT_ITEM item = {};
  item.data = bytes.data();
  item.size = bytes.size();
  return item;
}
std::string_view ToView(const WT_ITEM& item) {
  return {static_cast<const char*>(item.data), item.size};
}

class WiredtigerSession final : public Session {
 public:
  WiredtigerSession(WT_SESSION* session, WT_CURSOR* cursor) : session_(session), cursor_(cursor) {}
  ~WiredtigerSession() override { session_->close(session_, nullptr); }

  absl::Status Read(std::string_view key, std::string_view* record) override {
    SetKey(key);
    WT_ITEM value;
    int code = cursor_->search(cursor_);
    if (code == 0) code = cursor_->get_value(cursor_, &value);
    if (code != 0) return ToStatus(code, "a read fails");
    *record = ToView(value);
    return absl::OkStatus();
  }

  absl::Status Scan(std::string_view start, size_t count, RecordSink* sink) override {
    SetKey(start);
    int exact;
    int code = count > 0 ? cursor_->search_near(cursor_, &exact) : WT_NOTFOUND;
    if (code == 0 && exact < 0) code = cursor_->next(cursor_);
    while (code == 0) {
      WT_ITEM key, value;
      code = cursor_->get_key(cursor_, &key);
      if (code == 0) code = cursor_->get_value(cursor_, &value);
      if (code != 0) break;
      sink->Add(ToView(key), ToView(value));
      code = --count > 0 ? cursor_->next(cursor_) : WT_NOTFOUND;
    }
    cursor_->reset(cursor_);
    return code == WT_NOTFOUND ? absl::OkStatus() : ToStatus(code, "a scan fails");
  }

  absl::Status Insert(std::string_view key, std::string_view record) override {
    SetKey(key);
    const WT_ITEM value = ToItem(record);
    cursor_->set_value(cursor_, &value);
    return ToStatus(cursor_->insert(cursor_), "a put fails");
  }
  absl::Status Update(std::string_view key, std::string_view record) override {
    return Insert(key, record);  // The cursor overwrites.
  }
  absl::Status Delete(std::string_view key) override {
    SetKey(key);
    return ToStatus(cursor_->remove(cursor_), "a delete fails");
  }

 private:
  // Views of the last read end here.
  void SetKey(std::string_view key) {
    cursor_->reset(cursor_);
    key_ = ToItem(key);
    cursor_->set_key(cursor_, &key_);
  }

  WT_SESSION* const session_;
  WT_CURSOR* const cursor_;  // Closed with the session.
  WT_ITEM key_ = {};
};

class WiredtigerEngine final : public Engine {
 public:
  WiredtigerEngine(const Settings& settings, uint64_t cache_size_bytes, WT_CONNECTION* connection)
      : path_(settings.Text("wiredtiger.path")),
        sync_(settings.Text("wiredtiger.sync")),
        cache_size_bytes_(cache_size_bytes),
        connection_(connection) {}
  ~WiredtigerEngine() override {
    if (connection_ != nullptr) connection_->close(connection_, nullptr);
  }

  absl::StatusOr<std::unique_ptr<Session>> NewSession() override {
    WT_SESSION* session;
    WT_CURSOR* cursor;
    int code = connection_->open_session(connection_, nullptr, nullptr, &session);
    if (code != 0) return ToStatus(code, "cannot open a session");
    code = session->open_cursor(session, kTable, nullptr, "overwrite=true", &cursor);
    if (code != 0) {
      session->close(session, nullptr);
      return ToStatus(code, "cannot open a cursor");
    }
    return std::make_unique<WiredtigerSession>(session, cursor);
  }

  absl::StatusOr<std::vector<ReportLine>> Report() override {
    const std::string promise =
        sync_ == "none" ? "log records stay in the process for a while: a returned write may be "
                          "lost in a crash of the process"
                        : FilePromise(path_, sync_ == "fsync");
    return std::vector<ReportLine>{
        {"WIREDTIGER", "Promise", promise},
        {"WIREDTIGER", "FileSystem", FileSystemName(path_)},
        {"WIREDTIGER", "Path", path_},
        {"WIREDTIGER", "Sync", sync_},
        {"WIREDTIGER", "Compression", "none"},
        {"WIREDTIGER", "Cache(bytes)", absl::StrCat(cache_size_bytes_)},
        {"WIREDTIGER", "Version",
         absl::StrCat(WIREDTIGER_VERSION_MAJOR, ".", WIREDTIGER_VERSION_MINOR, ".",
                      WIREDTIGER_VERSION_PATCH)}};
  }

  absl::Status MakeTable() {
    return WithSession([](WT_SESSION* session) {
      return session->create(session, kTable, "key_format=u,value_format=u,block_compressor=none");
    });
  }
  absl::Status Compact() override {
    return WithSession(
        [](WT_SESSION* session) { return session->compact(session, kTable, nullptr); });
  }
  absl::Status Close() override {
    WT_CONNECTION* const connection = std::exchange(connection_, nullptr);
    return ToStatus(connection->close(connection, nullptr), "cannot close");
  }

 private:
  template <typename Call>
  absl::Status WithSession(Call call) {
    WT_SESSION* session;
    int code = connection_->open_session(connection_, nullptr, nullptr, &session);
    if (code != 0) return ToStatus(code, "cannot open a session");
    code = call(session);
    const int closed = session->close(session, nullptr);
    return ToStatus(code != 0 ? code : closed, kTable);
  }

  const std::string path_, sync_;
  const uint64_t cache_size_bytes_;
  WT_CONNECTION* connection_;
};

absl::StatusOr<std::unique_ptr<Engine>> OpenWiredtiger(const Settings& settings, Phase phase) {
  const std::string& path = settings.Text("wiredtiger.path");
  if (absl::Status status = PrepareDirectory(path, "wiredtiger.path", phase); !status.ok()) {
    return status;
  }
  const uint64_t cache_size_bytes = CacheSizeBytes(settings, "wiredtiger.cache");
  const std::string& sync = settings.Text("wiredtiger.sync");
  const std::string config = absl::StrCat(
      phase == Phase::kLoad ? "create," : "", "cache_size=", cache_size_bytes,
      ",session_max=2048,log=(enabled=true),transaction_sync=(enabled=",
      sync == "none" ? "false" : "true", ",method=", sync == "fsync" ? "fsync" : "none",
      "),checkpoint=(wait=", settings.Whole("wiredtiger.checkpoint"), ")");
  WT_CONNECTION* connection;
  if (const int code = wiredtiger_open(path.c_str(), nullptr, config.c_str(), &connection);
      code != 0) {
    return ToStatus(code, absl::StrCat("cannot open ", path));
  }
  auto engine = std::make_unique<WiredtigerEngine>(settings, cache_size_bytes, connection);
  if (phase == Phase::kLoad) {
    if (absl::Status status = engine->MakeTable(); !status.ok()) return status;
  }
  return engine;
}

const EngineRegistration kRegistration(
    {"wiredtiger",
     "WiredTiger: a B-tree with a cache and a log",
     {
         TextRule("wiredtiger.path", "./ycsb-wiredtiger.db", "the store's directory"),
         ChoiceRule("wiredtiger.sync", {"write", "none", "fsync"},
                    "what a put waits for: its log record written to the file, nothing, on the "
                    "medium"),
         WholeRule("wiredtiger.cache", "0", 0, INT64_C(1) << 43,
                   "bytes of the cache; 0: more than all data"),
         WholeRule("wiredtiger.checkpoint", "60", 0, 100000,
                   "seconds between checkpoints; 0: at the close only"),
     },
     OpenWiredtiger});

}  // namespace
}  // namespace daxkv::ycsb
