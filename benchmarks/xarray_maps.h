// The maps that the XArray is compared with, behind one interface that costs nothing.
#ifndef DAXKV_BENCHMARKS_XARRAY_MAPS_H_
#define DAXKV_BENCHMARKS_XARRAY_MAPS_H_

#include <Judy.h>

#include <cstdint>
#include <map>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "xarray/cursor.h"
#include "xarray/entry_range.h"
#include "xarray/xarray.h"

namespace daxkv::xarray {

// Each has: Load (the value, or 0), Store, Erase, and ForEach(fn) over all values.

class XArrayMap {
 public:
  static constexpr const char* kName = "xarray";
  uint64_t Load(uint64_t key) const {
    const Entry entry = array_.Load(key);
    return entry ? entry.value() : 0;
  }
  void Store(uint64_t key, uint64_t value) {
    if (!array_.Store(key, 0, Entry::Value(value)).ok()) __builtin_trap();
  }
  void Erase(uint64_t key) { array_.Erase(key); }
  template <typename Fn>
  void ForEach(Fn fn) {
    for (const Located at : array_.Entries()) fn(at.entry.value());
  }
  XArray& array() { return array_; }

 private:
  XArray array_{InPlaceExchange::kNever};  // as none of the other maps allows
};

class JudyMap {
 public:
  static constexpr const char* kName = "JudyL";
  JudyMap() = default;
  ~JudyMap() { JudyLFreeArray(&judy_, PJE0); }
  JudyMap(const JudyMap&) = delete;
  JudyMap& operator=(const JudyMap&) = delete;

  uint64_t Load(uint64_t key) const {
    const Word_t* value = Value(JudyLGet(judy_, key, PJE0));
    return value == nullptr ? 0 : *value;
  }
  void Store(uint64_t key, uint64_t value) { *Value(JudyLIns(&judy_, key, PJE0)) = value; }
  void Erase(uint64_t key) { JudyLDel(&judy_, key, PJE0); }
  template <typename Fn>
  void ForEach(Fn fn) {
    Word_t key = 0;
    for (const Word_t* value = Value(JudyLFirst(judy_, &key, PJE0)); value != nullptr;
         value = Value(JudyLNext(judy_, &key, PJE0))) {
      fn(*value);
    }
  }
  // The value of the last key at or before `key`.
  uint64_t LoadAtOrBefore(uint64_t key) const {
    Word_t at = key;
    const Word_t* value = Value(JudyLLast(judy_, &at, PJE0));
    return value == nullptr ? 0 : *value;
  }

 private:
  static Word_t* Value(void** value) { return reinterpret_cast<Word_t*>(value); }

  void* judy_ = nullptr;
};

template <typename Map>
class StandardMap {
 public:
  uint64_t Load(uint64_t key) const {
    const auto it = map_.find(key);
    return it == map_.end() ? 0 : it->second;
  }
  void Store(uint64_t key, uint64_t value) { map_[key] = value; }
  void Erase(uint64_t key) { map_.erase(key); }
  template <typename Fn>
  void ForEach(Fn fn) {
    for (const auto& [key, value] : map_) fn(value);
  }
  Map& map() { return map_; }

 private:
  Map map_;
};

struct BtreeMap : StandardMap<absl::btree_map<uint64_t, uint64_t>> {
  static constexpr const char* kName = "btree";
};
struct FlatHashMap : StandardMap<absl::flat_hash_map<uint64_t, uint64_t>> {
  static constexpr const char* kName = "flat_hash";
};
struct StdMap : StandardMap<std::map<uint64_t, uint64_t>> {
  static constexpr const char* kName = "std::map";
};

}  // namespace daxkv::xarray

#endif  // DAXKV_BENCHMARKS_XARRAY_MAPS_H_
