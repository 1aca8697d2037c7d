#include "kv/keyspaces.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kv/exceptions.h"
#include "kv/store.h"

namespace daxkv::kv {
namespace {

constexpr std::chrono::milliseconds kFirstPoll(5);
constexpr std::chrono::milliseconds kLastPoll(500);
// Extents given back before the worker looks after others.
constexpr size_t kExtentsPerStep = 1024;

absl::Status InKeyspace(const absl::Status& status, std::string_view name) {
  if (status.ok()) return status;
  return absl::Status(
      status.code(),
      absl::StrCat("keyspace \"", absl::CHexEscape(std::string(name)), "\": ", status.message()));
}

// While the writeback runs, whose hooks may be inside.
void ShutInUse(Engine& engine) {
  engine.AwaitCalls();
  engine.Shut();
}

}  // namespace

Keyspaces::Keyspaces(Store* store) : store_(*store), table_(&store->pool()) {
  store_.space_worker().Attach(this);
}

Keyspaces::~Keyspaces() {
  store_.space_worker().Detach(this);
  for (const auto& [id, engine] : open_) engine->Shut();
  for (const auto& ending : endings_) {
    if (ending->engine != nullptr) ending->engine->Shut();
  }
}

// Whether there is anything to finish is found out by the worker: the table is not read here.
void Keyspaces::Start() {
  started_ = true;
  if (table_.MayExist()) store_.space_worker().Call(this, std::chrono::milliseconds(0));
}

absl::Status Keyspaces::LoadLocked() { return table_.Load(); }

absl::StatusOr<std::unique_ptr<Engine>> Keyspaces::CreateEngine(KeyspaceId id, uint64_t* root) {
  absl::StatusOr<std::unique_ptr<Engine>> engine = Engine::Create(&store_, id, root);
  if (!absl::IsResourceExhausted(engine.status())) return engine;
  store_.default_keyspace().space().MakeRoom().IgnoreError();
  for (const auto& [open_id, open] : open_) open->space().MakeRoom().IgnoreError();
  return Engine::Create(&store_, id, root);
}

absl::StatusOr<std::shared_ptr<Engine>> Keyspaces::Create(std::string_view name) {
  absl::Status valid = CheckKeyspaceName(name);
  if (!valid.ok()) return valid;
  absl::StatusOr<std::shared_ptr<Engine>> made = TryCreate(name);
  // Keyspaces that are being given back have room, and entries of the table.
  if (!absl::IsResourceExhausted(made.status()) || !WaitForRoom()) return made;
  return TryCreate(name);
}

// A crash before the table's Commit: the entry says that it is being dropped, and what was made of
// the keyspace is given back by the next open.
absl::StatusOr<std::shared_ptr<Engine>> Keyspaces::TryCreate(std::string_view name) {
  std::lock_guard<std::mutex> lock(mutex_);
  absl::Status status = LoadLocked();
  if (!status.ok()) return status;
  auto ending = std::make_unique<Ending>();
  endings_.reserve(endings_.size() + 1);
  const absl::StatusOr<KeyspaceId> id = table_.Reserve(name);
  if (!id.ok()) return id.status();
  ending->id = *id;
  status = WithoutExceptions([&] { return CreateReserved(*id, name, &ending->engine); });
  if (status.ok()) return std::move(ending->engine);
  // After kInternal nobody knows what the medium has: the next open does.
  open_.erase(*id);
  if (ending->engine != nullptr) ending->engine->BeginDrop();
  AddEndingLocked(std::move(ending));
  return InKeyspace(status, name);
}

absl::Status Keyspaces::CreateReserved(KeyspaceId id, std::string_view name,
                                       std::shared_ptr<Engine>* engine) {
  absl::StatusOr<std::unique_ptr<Engine>> made = CreateEngine(id, table_.RootOf(id));
  if (!made.ok()) return made.status();
  *engine = *std::move(made);
  (*engine)->SetName(name);
  store_.JoinDurability(**engine, /*is_new=*/true);
  open_.emplace(id, *engine);
  return table_.Commit(id);
}

// endings_ has room for it.
void Keyspaces::AddEndingLocked(std::unique_ptr<Ending> ending) noexcept {
  endings_.push_back(std::move(ending));
  drops_get_on_.store(true, std::memory_order_relaxed);
  store_.space_worker().Call(this, std::chrono::milliseconds(0));
}

absl::StatusOr<std::shared_ptr<Engine>> Keyspaces::OpenLocked(KeyspaceId id,
                                                              const std::string& name) {
  const auto found = open_.find(id);
  if (found != open_.end()) return found->second;
  absl::StatusOr<std::unique_ptr<Engine>> opened = Engine::Open(&store_, id, table_.RootOf(id));
  if (!opened.ok()) return InKeyspace(opened.status(), name);
  std::shared_ptr<Engine> engine = *std::move(opened);
  engine->SetName(name);
  store_.JoinDurability(*engine, /*is_new=*/false);
  open_.emplace(id, engine);
  return engine;
}

absl::StatusOr<std::shared_ptr<Engine>> Keyspaces::Open(std::string_view name) {
  absl::Status valid = CheckKeyspaceName(name);
  if (!valid.ok()) return valid;
  std::lock_guard<std::mutex> lock(mutex_);
  absl::Status status = LoadLocked();
  if (!status.ok()) return status;
  const absl::StatusOr<KeyspaceId> id = table_.Find(name);
  if (!id.ok()) return id.status();
  return OpenLocked(*id, std::string(name));
}

absl::StatusOr<std::shared_ptr<Engine>> Keyspaces::OpenById(KeyspaceId id) {
  std::lock_guard<std::mutex> lock(mutex_);
  absl::Status status = LoadLocked();
  if (!status.ok()) return status;
  const KeyspaceState state = table_.StateOf(id);
  if (state == KeyspaceState::kDropping) return nullptr;
  const absl::StatusOr<std::string> name = table_.NameOf(id);
  if (!name.ok()) return absl::DataLossError(name.status().message());
  return OpenLocked(id, *name);
}

absl::Status Keyspaces::Drop(std::string_view name) {
  absl::Status valid = CheckKeyspaceName(name);
  if (!valid.ok()) return valid;
  std::lock_guard<std::mutex> lock(mutex_);
  absl::Status status = LoadLocked();
  if (!status.ok()) return status;
  const absl::StatusOr<KeyspaceId> id = table_.Find(name);
  if (!id.ok()) return id.status();
  auto ending = std::make_unique<Ending>();
  ending->id = *id;
  endings_.reserve(endings_.size() + 1);
  status = table_.Drop(*id);
  if (!status.ok()) return status;
  const auto opened = open_.find(*id);
  if (opened != open_.end()) {
    ending->engine = std::move(opened->second);
    open_.erase(opened);
    ending->engine->BeginDrop();
  }
  AddEndingLocked(std::move(ending));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> Keyspaces::List() {
  std::lock_guard<std::mutex> lock(mutex_);
  absl::Status status = LoadLocked();
  if (!status.ok()) return status;
  if (!table_.damage().empty()) return absl::DataLossError(table_.damage().front());
  std::vector<std::string> names;
  for (const auto& [name, id] : table_.live()) names.push_back(name);
  return names;
}

absl::StatusOr<std::vector<std::pair<std::string, KeyspaceId>>> Keyspaces::Names() {
  std::lock_guard<std::mutex> lock(mutex_);
  absl::Status status = LoadLocked();
  if (!status.ok()) return status;
  return std::vector<std::pair<std::string, KeyspaceId>>(table_.live().begin(),
                                                         table_.live().end());
}

absl::StatusOr<std::vector<std::shared_ptr<Engine>>> Keyspaces::Engines(
    bool open, std::vector<std::string>* damage) {
  std::vector<std::shared_ptr<Engine>> engines;
  std::lock_guard<std::mutex> lock(mutex_);
  if (open) {
    for (const auto& [id, engine] : open_) engines.push_back(engine);
    return engines;
  }
  absl::Status status = LoadLocked();
  if (!status.ok() && damage == nullptr) return status;
  if (!status.ok()) {
    damage->push_back(std::string(status.message()));
    return engines;
  }
  if (damage != nullptr) *damage = table_.damage();
  for (const auto& [name, id] : table_.live()) {
    absl::StatusOr<std::shared_ptr<Engine>> engine = OpenLocked(id, name);
    if (engine.ok()) {
      engines.push_back(*std::move(engine));
    } else if (damage != nullptr && absl::IsDataLoss(engine.status())) {
      damage->push_back(std::string(engine.status().message()));
    } else {
      return engine.status();
    }
  }
  return engines;
}

absl::StatusOr<KeyspaceState> Keyspaces::StateOf(KeyspaceId id) {
  std::lock_guard<std::mutex> lock(mutex_);
  absl::Status status = LoadLocked();
  if (!status.ok()) return status;
  return table_.StateOf(id);
}

absl::StatusOr<dax::Run> Keyspaces::TableRun() {
  std::lock_guard<std::mutex> lock(mutex_);
  absl::Status status = LoadLocked();
  if (!status.ok()) return status;
  return table_.run();
}

uint64_t Keyspaces::CountDrops() {
  std::lock_guard<std::mutex> lock(mutex_);
  // Of a damaged table nobody knows; Check tells.
  FindEndingsLocked().IgnoreError();
  return endings_.size();
}

void Keyspaces::WaitForDrops(absl::Time deadline) {
  constexpr absl::Duration kNap = absl::Milliseconds(2);
  while (CountDrops() > 0 && absl::Now() < deadline) {
    store_.space_worker().Call(this, std::chrono::milliseconds(0));
    absl::SleepFor(std::min(kNap, deadline - absl::Now()));
  }
}

bool Keyspaces::WaitForRoom() {
  constexpr absl::Duration kLongest = absl::Seconds(1);
  constexpr absl::Duration kNap = absl::Milliseconds(2);
  const uint64_t before = CountDrops();
  const absl::Time deadline = absl::Now() + kLongest;
  while (before > 0 && CountDrops() >= before) {
    if (!drops_get_on_.load(std::memory_order_relaxed) || absl::Now() >= deadline) return false;
    store_.space_worker().Call(this, std::chrono::milliseconds(0));
    absl::SleepFor(kNap);
  }
  return before > 0;
}

// ---- Drops --------------------------------------------------------------------------------------

absl::StatusOr<bool> Keyspaces::Step(Ending& ending, bool* waits) {
  const bool shut = ending.engine != nullptr && ending.engine->is_shut();
  if (!shut) {
    if (ending.engine != nullptr && !ending.engine->IsUnusedSinceDrop()) {
      *waits = true;
      return false;
    }
    if (ending.engine == nullptr && ending.space == nullptr) {
      absl::StatusOr<std::unique_ptr<Space>> space =
          Space::Open(&store_.pool(), ending.id, dax::MappingOptions(), &store_.space_worker());
      if (!space.ok()) return space.status();
      ending.space = *std::move(space);
    }
    Space& space = ending.engine != nullptr ? ending.engine->space() : *ending.space;
    const absl::StatusOr<Space::DropResult> dropped = space.Drop(kExtentsPerStep);
    if (!dropped.ok()) return dropped.status();
    *waits = dropped->extents_left > 0 && dropped->extents_left == dropped->extents_pinned;
    if (dropped->extents_left > 0) return false;
  }
  // What was put a moment ago must not be redone in the next keyspace of this id, should its bytes
  // still lie where that one gets an extent (recent_puts.h, R6).
  if (RecentPuts* const recent = store_.recent_puts(); recent != nullptr) {
    absl::Status settled = recent->SettleAll();
    if (!settled.ok()) return settled;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  if (!shut) {
    // The mapping dies. Whoever comes to it by a frame (dax::Mapping::LockFrame) finds nothing.
    // CheckUnused, which looks at it, holds the lock.
    if (ending.engine != nullptr) ShutInUse(*ending.engine);
    ending.space.reset();
  }
  // Everything is durably gone: the id may be used again.
  absl::Status freed = table_.Free(ending.id);
  if (!freed.ok()) return freed;
  return true;
}

absl::Status Keyspaces::FindEndingsLocked() {
  if (found_endings_) return absl::OkStatus();
  absl::Status loaded = LoadLocked();
  if (!loaded.ok()) return loaded;
  for (const KeyspaceId id : table_.Dropping()) {
    const auto known = [id](const auto& ending) { return ending->id == id; };
    if (std::any_of(endings_.begin(), endings_.end(), known)) continue;
    auto ending = std::make_unique<Ending>();
    ending->id = id;
    endings_.push_back(std::move(ending));
  }
  found_endings_ = true;
  return absl::OkStatus();
}

std::optional<std::chrono::milliseconds> Keyspaces::Run() noexcept {
  std::vector<Ending*> endings;
  absl::Status status = WithoutExceptions([&] {
    std::lock_guard<std::mutex> lock(mutex_);
    absl::Status found = FindEndingsLocked();
    if (!found.ok()) return found;
    for (const auto& ending : endings_) endings.push_back(ending.get());
    return absl::OkStatus();
  });
  if (absl::IsResourceExhausted(status)) return kLastPoll;
  if (!status.ok()) return std::nullopt;  // A damaged table: Check tells.
  bool waits = false, more = false;
  for (Ending* ending : endings) {
    bool this_waits = false;
    const absl::StatusOr<bool> done = WithoutExceptions([&] { return Step(*ending, &this_waits); });
    if (done.ok() && *done) {
      std::lock_guard<std::mutex> lock(mutex_);
      endings_.erase(std::find_if(endings_.begin(), endings_.end(),
                                  [&](const auto& one) { return one.get() == ending; }));
      continue;
    }
    // After an error of the medium, or of damage, the next open tries anew, if this one never can.
    waits |= this_waits || !done.ok();
    more |= !this_waits && done.ok();
  }
  drops_get_on_.store(more, std::memory_order_relaxed);
  if (more) {
    poll_ = kFirstPoll;
    return std::chrono::milliseconds(0);
  }
  if (!waits) {
    poll_ = kFirstPoll;
    return std::nullopt;
  }
  poll_ = std::clamp(poll_ * 2, kFirstPoll, kLastPoll);
  return poll_;
}

// ---- Close --------------------------------------------------------------------------------------

absl::Status Keyspaces::CheckUnused() {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [id, engine] : open_) {
    absl::Status unused = engine->CheckUnused();
    if (!unused.ok()) return unused;
  }
  for (const auto& ending : endings_) {
    if (ending->engine == nullptr || ending->engine->is_shut()) continue;
    absl::Status unused = ending->engine->CheckUnused();
    if (!unused.ok()) return unused;
  }
  return absl::OkStatus();
}

absl::Status Keyspaces::Close() {
  store_.space_worker().Detach(this);
  // Nobody waits for anything any more. What fails is left to the next open.
  if (!endings_.empty() || (started_ && !found_endings_ && table_.MayExist())) {
    while (Run() == std::chrono::milliseconds(0)) {
    }
  }
  for (const auto& ending : endings_) {
    if (ending->engine != nullptr) ShutInUse(*ending->engine);
  }
  endings_.clear();
  absl::Status closed;
  for (const auto& [id, engine] : open_) closed.Update(engine->Close());
  return closed;
}

void Keyspaces::Shut() {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [id, engine] : open_) engine->Shut();
  open_.clear();
}

}  // namespace daxkv::kv
