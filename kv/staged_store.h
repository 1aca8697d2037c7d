// A store that is made aside and appears at its path when it is whole, by one rename. Internal.
//
//   PATH.restoring/store        where it is made
//   PATH.restoring/store.lock   beside a store of the fixed shape while it is open
//
// The directory is locked (flock) as long as the object lives. One that a killed process left is
// emptied by the next restore to PATH.
//
// Thread safety: none.
#ifndef DAXKV_KV_STAGED_STORE_H_
#define DAXKV_KV_STAGED_STORE_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "dax/file_descriptor.h"

namespace daxkv::kv {

class StagedStore {
 public:
  //   kAlreadyExists       something is at `path`
  //   kFailedPrecondition  another restore to `path` is running; PATH.restoring holds other files
  //   kNotFound            the directory that `path` is in
  //   otherwise            what the file system says
  static absl::StatusOr<std::unique_ptr<StagedStore>> Begin(const std::string& path);
  // Removes what was made, unless it was committed.
  ~StagedStore();
  StagedStore(const StagedStore&) = delete;
  StagedStore& operator=(const StagedStore&) = delete;

  // Where to make the store.
  std::string store_path() const { return staging_ + "/store"; }
  // Moves the store, which is closed, to its path, durably. Replaces nothing: kAlreadyExists.
  // After a failed sync of the directory it is there, but a power cut may undo that.
  absl::Status Commit();

 private:
  StagedStore(std::string path, std::string staging)
      : path_(std::move(path)), staging_(std::move(staging)) {}
  absl::Status MakeAndLock();
  // Whether the directory holds nothing but what a restore makes there.
  absl::Status CheckOurs() const;
  // Removes that; whether it succeeded.
  bool Clear() const noexcept;

  const std::string path_;
  const std::string staging_;
  dax::FileDescriptor directory_;  // staging_, locked.
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_STAGED_STORE_H_
