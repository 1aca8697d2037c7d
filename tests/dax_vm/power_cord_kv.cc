// The power cord under a kv::Db: the whole store, with compaction meanwhile.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "dax/media.h"
#include "kv/db.h"
#include "tests/dax_vm/power_cord.h"

namespace daxkv::dax_vm {
namespace {

// $STORE, or a folder.
std::string StorePath() {
  const char* path = std::getenv("STORE");
  return path != nullptr ? path : "store";
}

// "writer/slot"; the value begins with the number of the operation that put it.
std::string Key(unsigned writer, unsigned slot) { return absl::StrFormat("%u/%02u", writer, slot); }

std::string Numbered(uint64_t number, const std::string& value) {
  std::string numbered(sizeof(number), '\0');
  std::memcpy(numbered.data(), &number, sizeof(number));
  return numbered + value;
}

class DbSubject : public Subject {
 public:
  explicit DbSubject(std::unique_ptr<kv::Db> db) : db_(std::move(db)) {}

  bool Overwrites() const override { return true; }

  absl::Status Put(const Operation& operation, const std::string& value) override {
    return db_->Put(Key(operation.writer, operation.slot), Numbered(operation.number, value));
  }
  absl::Status Delete(const Operation& operation) override {
    return db_->Delete(Key(operation.writer, operation.slot));
  }

  // By an iterator first, which lets a half-recovered store show itself; then by the store's own
  // check.
  absl::StatusOr<State> Read(uint64_t seed) override {
    State state = {};
    const std::unique_ptr<kv::Iterator> it = db_->NewIterator();
    for (it->SeekToFirst(); it->Valid(); it->Next()) {
      const absl::Status counted = Count(seed, it->key(), it->value(), state);
      if (!counted.ok()) return counted;
    }
    if (!it->status().ok()) return it->status();
    for (unsigned writer = 0; writer < kWriters; ++writer) {
      for (unsigned slot = 0; slot < kSlots; ++slot) {
        const absl::Status found = db_->Contains(Key(writer, slot));
        if (found.ok() != (state[writer][slot] != 0)) {
          return absl::DataLossError(absl::StrCat(Key(writer, slot), ": the iterator and Contains ",
                                                  "disagree: ", found.ToString()));
        }
      }
    }
    const absl::StatusOr<kv::CheckReport> report = db_->Check();
    if (!report.ok()) return report.status();
    if (!report->faults.empty()) {
      return absl::DataLossError(absl::StrCat("check: ", absl::StrJoin(report->faults, "; ")));
    }
    return state;
  }

  absl::Status Reclaim() override { return db_->Compact(absl::Now()).status(); }
  absl::Status Close() override { return db_->Close(); }

 private:
  static absl::Status Count(uint64_t seed, std::string_view key, std::string_view value,
                            State& state) {
    const std::string name(key);
    unsigned writer = 0, slot = 0;
    if (std::sscanf(name.c_str(), "%u/%u", &writer, &slot) != 2 || writer >= kWriters ||
        slot >= kSlots || Key(writer, slot) != name) {
      return absl::DataLossError(absl::StrCat("the key '", name, "' is none of ours"));
    }
    uint64_t number = 0;
    if (value.size() >= sizeof(number)) std::memcpy(&number, value.data(), sizeof(number));
    if (number == 0 || value != Numbered(number, MakeValue(seed, writer, number))) {
      return absl::DataLossError(
          absl::StrCat(name, " has not the value of operation ", number, " of its writer"));
    }
    if (state[writer][slot] != 0) return absl::DataLossError(absl::StrCat(name, " comes twice"));
    state[writer][slot] = number;
    return absl::OkStatus();
  }

  std::unique_ptr<kv::Db> db_;
};

int Run(int argc, char** argv) {
  absl::StatusOr<std::unique_ptr<kv::Db>> db = kv::Db::Open(StorePath(), kv::Options());
  if (!db.ok()) {
    std::cout << "power cord: cannot open: " << db.status() << std::endl;
    return 1;
  }
  const absl::StatusOr<kv::Info> info = (*db)->GetInfo();
  if (!info.ok() || info->media.media_class != dax::MediaClass::kDax || info->media.forced) {
    std::cout << "power cord: the medium is not DAX; " << info.status() << std::endl;
    return 1;
  }
  DbSubject subject(*std::move(db));
  return RunPowerCord(argc, argv, subject);
}

}  // namespace
}  // namespace daxkv::dax_vm

int main(int argc, char** argv) { return daxkv::dax_vm::Run(argc, argv); }
