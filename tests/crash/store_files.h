// Where a store's bytes lie, for both shapes.
#ifndef DAXKV_TESTS_CRASH_STORE_FILES_H_
#define DAXKV_TESTS_CRASH_STORE_FILES_H_

#include <cstddef>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "dax/pool.h"

namespace daxkv::crash {

class StoreFiles {
 public:
  StoreFiles(std::string path, dax::PoolShape shape) : path_(std::move(path)), shape_(shape) {}

  const std::string& path() const { return path_; }
  dax::PoolShape shape() const { return shape_; }
  bool grows() const { return shape_ == dax::PoolShape::kDirectory; }
  std::string PartPath(size_t number) const {
    return grows() ? absl::StrFormat("%s/parts/%06d.pmem", path_, number) : path_;
  }
  // Of a store that a restore is making (kv/staged_store.h).
  std::string StagedPartPath(size_t number) const {
    return absl::StrFormat("%s.restoring/store/parts/%06d.pmem", path_, number);
  }
  // Of a fixed pool that is being created.
  std::string UnfinishedPath() const { return path_ + ".creating"; }
  // With this file, there is a store.
  std::string CommitPath() const { return grows() ? path_ + "/daxkv.set" : path_; }

 private:
  std::string path_;
  dax::PoolShape shape_;
};

}  // namespace daxkv::crash

#endif  // DAXKV_TESTS_CRASH_STORE_FILES_H_
