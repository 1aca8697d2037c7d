// The keyspaces of an open store besides the default one: created, opened, and dropped. Internal to
// kv/.
//
// A keyspace costs nothing before it is opened; it stays open until the store is closed. Dropping
// one commits at once. What it held goes in the background, on the store's worker, as soon as
// nobody can look at it any more: calls under way have ended, ValueWriters and snapshots from
// before the drop are gone; extents that are pinned wait for their pins. A crash before that is
// done: the table says so, and the next open goes on.
//
// Thread safety: every method from any thread at the same time, except Start, Close, Shut and the
// destructor.
//
// Locks: mutex_ is held while keyspaces are created and opened, so it is taken by nobody who holds
// anything that this may wait for.
#ifndef DAXKV_KV_KEYSPACES_H_
#define DAXKV_KV_KEYSPACES_H_

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kv/engine.h"
#include "kv/keyspace_table.h"
#include "kv/space_worker.h"

namespace daxkv::kv {

class Keyspaces final : private SpaceWorker::Task {
 public:
  // `store` must outlive this.
  explicit Keyspaces(Store* store);
  // Keyspaces that are still open end as in a crash.
  ~Keyspaces() override;
  // The store is open: from now on drops that a crash cut short are finished.
  void Start();

  // Statuses of Db::CreateKeyspace, OpenKeyspace, DropKeyspace, ListKeyspaces.
  absl::StatusOr<std::shared_ptr<Engine>> Create(std::string_view name);
  absl::StatusOr<std::shared_ptr<Engine>> Open(std::string_view name);
  absl::Status Drop(std::string_view name);
  absl::StatusOr<std::vector<std::string>> List();

  // List with the ids.
  absl::StatusOr<std::vector<std::pair<std::string, KeyspaceId>>> Names();
  // The live keyspace of this id, opened; null if it is being dropped. kDataLoss: there is none.
  absl::StatusOr<std::shared_ptr<Engine>> OpenById(KeyspaceId id);
  // Those that are open now; or all, which are opened. `damage`, if given, gets a line for each
  // that can't be opened, and for each damaged entry of the table; otherwise the first is returned.
  absl::StatusOr<std::vector<std::shared_ptr<Engine>>> Engines(
      bool open, std::vector<std::string>* damage = nullptr);
  // The state of an id that extents have, for Check.
  absl::StatusOr<KeyspaceState> StateOf(KeyspaceId id);
  // The table's run; kind 0: there is none.
  absl::StatusOr<dax::Run> TableRun();
  // Drops that are not finished.
  uint64_t CountDrops();
  // Waits until there are none, or the deadline.
  void WaitForDrops(absl::Time deadline);
  // For a caller without room: waits while drops are getting on, a second at most. Whether one has
  // ended.
  bool WaitForRoom();

  // kFailedPrecondition, if something of them is still in use.
  absl::Status CheckUnused();
  // Finishes drops, and closes all, but for what Shut does, which must follow. Nothing is in use.
  absl::Status Close();
  void Shut();

 private:
  // A keyspace that was dropped.
  struct Ending {
    KeyspaceId id;
    std::shared_ptr<Engine> engine;  // If it was open.
    std::unique_ptr<Space> space;    // Otherwise, once it is looked at.
  };

  absl::StatusOr<std::shared_ptr<Engine>> OpenLocked(KeyspaceId id, const std::string& name);
  absl::Status LoadLocked();
  // Adds what earlier sessions have left, once.
  absl::Status FindEndingsLocked();
  absl::StatusOr<std::shared_ptr<Engine>> TryCreate(std::string_view name);
  // What follows on KeyspaceTable::Reserve. *engine, once it is made, is to be dropped after an
  // error.
  absl::Status CreateReserved(KeyspaceId id, std::string_view name,
                              std::shared_ptr<Engine>* engine);
  void AddEndingLocked(std::unique_ptr<Ending> ending) noexcept;
  // Makes room, if there is none.
  absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(KeyspaceId id, uint64_t* root);
  std::optional<std::chrono::milliseconds> Run() noexcept override;
  // Does a bounded part of it. True: it is done. False: there is more, or somebody to be waited for
  // (*waits).
  absl::StatusOr<bool> Step(Ending& ending, bool* waits);

  Store& store_;
  std::mutex mutex_;
  KeyspaceTable table_;                                 // mutex_
  std::map<KeyspaceId, std::shared_ptr<Engine>> open_;  // mutex_: live ones
  std::vector<std::unique_ptr<Ending>> endings_;        // mutex_: the list, not what it leads to
  std::atomic<bool> drops_get_on_{false};  // None waits for somebody, as far as it is known.
  bool started_ = false;
  bool found_endings_ = false;         // mutex_: those that a crash cut short are in endings_.
  std::chrono::milliseconds poll_{0};  // Of Run.
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_KEYSPACES_H_
