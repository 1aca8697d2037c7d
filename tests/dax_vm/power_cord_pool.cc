// The power cord under a dax::Pool: puts are runs written, flushed and committed; deletes are runs
// released.

#include <cstring>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "dax/pool.h"
#include "tests/dax_vm/power_cord.h"

namespace daxkv::dax_vm {
namespace {

constexpr char kPath[] = "pool";

// What a run holds, followed by the value. Its kind is 1 + the writer, its owner the slot.
struct Header {
  uint64_t number;
  uint64_t value_size_bytes;
};

class PoolSubject : public Subject {
 public:
  explicit PoolSubject(std::unique_ptr<dax::Pool> pool) : pool_(std::move(pool)) {}

  bool Overwrites() const override { return false; }

  absl::Status Put(const Operation& operation, const std::string& value) override {
    const uint64_t used_bytes = sizeof(Header) + value.size();
    const uint64_t pages = (used_bytes + dax::kPageSizeBytes - 1) / dax::kPageSizeBytes;
    const absl::StatusOr<dax::Run> run =
        pool_->AllocateRun(pages, static_cast<uint8_t>(operation.writer + 1),
                           static_cast<uint16_t>(operation.slot), used_bytes);
    if (!run.ok()) return run.status();
    const Header header{operation.number, value.size()};
    char* const bytes = pool_->At(run->offset());
    std::memcpy(bytes, &header, sizeof(header));
    pool_->Flush(bytes, sizeof(header));
    pool_->CopyAndFlush(bytes + sizeof(header), value.data(), value.size());
    const absl::Status drained = pool_->Drain();
    if (!drained.ok()) return drained;
    const absl::Status committed = pool_->CommitRun(*run);
    if (committed.ok()) runs_[operation.writer][operation.slot] = *run;
    return committed;
  }

  absl::Status Delete(const Operation& operation) override {
    return pool_->ReleaseRun(runs_[operation.writer][operation.slot]);
  }

  absl::StatusOr<State> Read(uint64_t seed) override {
    State state = {};
    const absl::Status read = pool_->ForEachRun([&](const dax::Run& run) {
      const unsigned writer = run.kind - 1u, slot = run.owner;
      if (writer >= kWriters || slot >= kSlots) return Damage(run, "is none of ours");
      if (state[writer][slot] != 0) return Damage(run, "is the second of its slot");
      Header header;
      const char* const bytes = pool_->At(run.offset());
      std::memcpy(&header, bytes, sizeof(header));
      if (header.value_size_bytes > run.size_bytes() - sizeof(header) ||
          std::string_view(bytes + sizeof(header), header.value_size_bytes) !=
              MakeValue(seed, writer, header.number)) {
        return Damage(run, absl::StrCat("has not the value of operation ", header.number));
      }
      state[writer][slot] = header.number;
      runs_[writer][slot] = run;
      return absl::OkStatus();
    });
    if (!read.ok()) return read;
    return state;
  }

  absl::Status Reclaim() override { return pool_->Trim().status(); }
  absl::Status Close() override { return pool_->Close(); }

 private:
  static absl::Status Damage(const dax::Run& run, const std::string& what) {
    return absl::DataLossError(absl::StrCat("the run of ", run.pages, " pages at pool offset ",
                                            run.offset(), ", writer ", run.kind - 1, ", slot ",
                                            run.owner, ", ", what));
  }

  std::unique_ptr<dax::Pool> pool_;
  // Each writer's row is its own thread's.
  dax::Run runs_[kWriters][kSlots];
};

int Run(int argc, char** argv) {
  dax::PoolOptions options;
  options.max_size_bytes = uint64_t{4} << 30;
  absl::StatusOr<std::unique_ptr<dax::Pool>> pool = dax::Pool::Open(kPath, options);
  if (!pool.ok()) {
    std::cout << "power cord: cannot open: " << pool.status() << std::endl;
    return 1;
  }
  if ((*pool)->media().media_class != dax::MediaClass::kDax || (*pool)->media().forced) {
    std::cout << "power cord: the medium is not DAX" << std::endl;
    return 1;
  }
  PoolSubject subject(*std::move(pool));
  return RunPowerCord(argc, argv, subject);
}

}  // namespace
}  // namespace daxkv::dax_vm

int main(int argc, char** argv) { return daxkv::dax_vm::Run(argc, argv); }
