// The index's contract, single-threaded, and against std::map.
#include "kv/index.h"

#include "tests/kv/index_harness.h"

namespace daxkv::kv {
namespace {

std::string Number(uint64_t n) {
  char text[24];
  snprintf(text, sizeof(text), "key%012llu", static_cast<unsigned long long>(n));
  return text;
}
std::string Hashed(uint64_t n) { return "user" + std::to_string((n + 1) * 0x9e3779b97f4a7c15); }

TEST(IndexTest, EmptyIndex) {
  IndexHarness store;
  EXPECT_TRUE(absl::IsNotFound(store.Get("k").status()));
  EXPECT_TRUE(absl::IsNotFound(store.Remove("k")));
  ExpectEqual(store, {});
  store.Reopen();
  ExpectEqual(store, {});
}

TEST(IndexTest, PutGetRemove) {
  IndexHarness store;
  absl::StatusOr<bool> replaced = store.Put("a", "1");
  ASSERT_TRUE(replaced.ok());
  EXPECT_FALSE(*replaced);
  replaced = store.Put("a", "2");
  ASSERT_TRUE(replaced.ok());
  EXPECT_TRUE(*replaced);
  EXPECT_EQ(*store.Get("a"), "2");
  EXPECT_EQ(store.memory().retires, 1u);
  EXPECT_TRUE(store.Remove("a").ok());
  EXPECT_TRUE(absl::IsNotFound(store.Get("a").status()));
  EXPECT_EQ(store.memory().retires, 2u);
}

TEST(IndexTest, OrdersOfInsertion) {
  for (int order = 0; order < 3; ++order) {
    IndexHarness store;
    Model model;
    constexpr uint64_t kKeys = 30000;
    for (uint64_t i = 0; i < kKeys; ++i) {
      const std::string key = order == 0 ? Number(i) : order == 1 ? Number(kKeys - i) : Hashed(i);
      ASSERT_TRUE(store.Put(key, std::to_string(i)).ok());
      model[key] = std::to_string(i);
    }
    ExpectEqual(store, model);
    store.Reopen();
    ExpectEqual(store, model);
  }
}

}  // namespace
}  // namespace daxkv::kv
