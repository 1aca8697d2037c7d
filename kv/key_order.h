// The order in which many keys are handled. Internal to kv/.
#ifndef DAXKV_KV_KEY_ORDER_H_
#define DAXKV_KV_KEY_ORDER_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <string_view>
#include <vector>

namespace daxkv::kv {

// How many bytes both begin with.
inline size_t CommonPrefix(std::string_view a, std::string_view b) {
  const size_t limit = std::min(a.size(), b.size());
  size_t common = 0;
  while (common < limit && a[common] == b[common]) ++common;
  return common;
}

// The first eight bytes as a number that compares as they do; a shorter text is filled up with
// zeroes, so equal heads tell nothing.
inline uint64_t HeadOf(std::string_view text) {
  uint64_t head = 0;
  if (text.size() >= sizeof(head)) {
    std::memcpy(&head, text.data(), sizeof(head));
  } else if (!text.empty()) {
    std::memcpy(&head, text.data(), text.size());
  }
  return __builtin_bswap64(head);
}

// The shortest key that is above `below` and not above `from`, which is above `below`.
inline std::string_view Separator(std::string_view below, std::string_view from) {
  size_t common = 0;
  while (common < below.size() && below[common] == from[common]) ++common;
  return from.substr(0, common + 1);
}

// Positions 0..count-1 in ascending order of key_of(position), the last one only of those with the
// same key.
template <typename KeyOf>
std::vector<size_t> DistinctInKeyOrder(size_t count, KeyOf key_of) {
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return key_of(a) < key_of(b); });
  size_t kept = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const bool superseded = i + 1 < order.size() && key_of(order[i]) == key_of(order[i + 1]);
    if (!superseded) order[kept++] = order[i];
  }
  order.resize(kept);
  return order;
}

}  // namespace daxkv::kv

#endif  // DAXKV_KV_KEY_ORDER_H_
