// The store behind Db: what its keyspaces share. Internal to kv/.
//
//   Store --> dax::Pool
//     |-----> Snapshots    one counter of numbers, so that a snapshot shows all keyspaces alike
//     |-----> BatchTable   atomic batches
//     |-----> RecentPuts   on an ordinary file: puts whose leaves follow later
//     |-----> Compactor    one background thread
//     |-----> Scrubber     another, if asked for
//     |-----> SpaceWorker  another
//     |-----> Writeback    another, with process durability
//     |-----> Keyspaces    those besides the default one
//     `-----> Engine       a keyspace: Index --> Memory (= Space) --> dax::Mapping
//
// store.cc opens and closes; durability.cc has what process durability needs at an open; batch.cc
// has Write; check.cc has Check, GetInfo and GetStats.
//
// Thread safety: as Db.
#ifndef DAXKV_KV_STORE_H_
#define DAXKV_KV_STORE_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "dax/pool.h"
#include "kv/batch_table.h"
#include "kv/compaction.h"
#include "kv/db.h"
#include "kv/engine.h"
#include "kv/keyspaces.h"
#include "kv/recent_puts.h"
#include "kv/scrub.h"
#include "kv/snapshots.h"
#include "kv/space_worker.h"
#include "kv/writeback.h"

namespace daxkv::kv {

class Store final : private CompactionTargets {
 public:
  static absl::StatusOr<std::unique_ptr<Store>> Open(const std::string& path,
                                                     const Options& options);
  ~Store() override;
  // The store can only be destroyed after this, whatever it returns, except after
  // kFailedPrecondition: pins are still held, and nothing was done.
  absl::Status Close();

  // What Engines use; all of it outlives them.
  const Options& options() const { return options_; }
  dax::Pool& pool() const { return *pool_; }
  SpaceWorker& space_worker() { return space_worker_; }
  Snapshots& snapshots() const { return *snapshots_; }
  BatchTable& batch_table() const { return *batch_table_; }

  Engine& default_keyspace() const { return *default_keyspace_; }
  const std::shared_ptr<Engine>& shared_default_keyspace() const { return default_keyspace_; }
  Keyspaces& keyspaces() const { return *keyspaces_; }
  // Null without process durability.
  Writeback* writeback() const { return writeback_.get(); }
  // Null unless puts survive power loss on an ordinary file.
  RecentPuts* recent_puts() const { return recent_puts_.get(); }
  // Has a keyspace that was just opened, or made, take part in what keeps puts durable.
  void JoinDurability(Engine& engine, bool is_new) const;
  // Frees what open keyspaces besides this one have retired, and waits for those that were dropped.
  // Whether that can have made room.
  bool MakeRoom(const Engine& besides);

  absl::Status Write(const WriteBatch& batch);
  absl::Status Sync() { return writeback_ != nullptr ? writeback_->Run() : pool_->Sync(); }
  absl::StatusOr<CompactionResult> Compact(const CompactOptions& options);
  // As Compactor::MakeRoom.
  bool MakeRoomByMoving() { return compactor_ != nullptr && compactor_->MakeRoom(); }
  absl::StatusOr<ScrubReport> Scrub() const { return scrubber_->Scrub(); }
  absl::StatusOr<CheckReport> Check() const;
  absl::StatusOr<Info> GetInfo(bool count_bytes) const;
  absl::StatusOr<Stats> GetStats() const;

 private:
  class BatchWriter;

  Store(std::unique_ptr<dax::Pool> pool, const Options& options);
  // Opens what lies in the pool, creating the store if it has none.
  absl::Status OpenParts();
  absl::StatusOr<std::unique_ptr<Engine>> OpenDefaultKeyspace(bool has_store);
  // Completes the atomic batches that a crash cut short, and stores slots of recent puts, before
  // anything else is changed.
  absl::Status Redo();
  void StartScrubber();
  // The open keyspaces, or all; the default one comes first.
  absl::StatusOr<std::vector<std::shared_ptr<Engine>>> Engines(
      bool open, std::vector<std::string>* damage = nullptr) const;
  // Parts of GetInfo: what all runs tell; and what needs every keyspace opened.
  absl::Status AddSpaces(Info* info) const;
  absl::Status CountKeyspaces(Info* info) const;
  // ---- durability.cc ----
  // What the superblock says of the last session, and what this one wants.
  struct Durabilities {
    bool wants_process = false;
    bool was_process = false;
    uint32_t boot_id = 0;
    bool power_cut = false;  // While it had process durability.
  };
  absl::Status CompareDurabilities(bool has_store);
  absl::Status StoreDurability(uint64_t word);
  absl::Status SettleLastSession();
  absl::StatusOr<std::unique_ptr<Engine>> RecoverKeyspaces();
  absl::Status BeginProcessDurability();
  absl::Status BeginRecentPuts();
  absl::Status StampFreeSlots();

  // kFailedPrecondition, if something is still in use.
  absl::Status CheckUnused() const;
  absl::Status ForEachTarget(
      bool open, absl::FunctionRef<absl::Status(const CompactionTarget&)> visit) override;

  const Options options_;
  std::unique_ptr<dax::Pool> pool_;
  SpaceWorker space_worker_;
  std::unique_ptr<Snapshots> snapshots_;
  std::unique_ptr<BatchTable> batch_table_;
  Durabilities durabilities_;
  std::unique_ptr<Writeback> writeback_;
  std::unique_ptr<RecentPuts> recent_puts_;
  std::optional<PowerCutReport> power_cut_;
  std::shared_ptr<Engine> default_keyspace_;
  std::unique_ptr<Keyspaces> keyspaces_;
  std::unique_ptr<Compactor> compactor_;
  std::unique_ptr<Scrubber> scrubber_;
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_STORE_H_
