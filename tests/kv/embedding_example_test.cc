// The example of README.md's section "Embedding daxkv", compiled and run. A second test compares
// the two texts.
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gtest/gtest.h"
// README example begins
#include "kv/db.h"

namespace kv = daxkv::kv;

absl::Status Remember(const std::string& path) {
  absl::StatusOr<std::unique_ptr<kv::Db>> db = kv::Db::Open(path, kv::Options());
  if (!db.ok()) return db.status();

  absl::Status put = (*db)->Put("planet/6", "Saturn");  // Durable when it returns.
  if (!put.ok()) return put;
  absl::StatusOr<std::string> copy = (*db)->Get("planet/6");
  if (!copy.ok()) return copy.status();

  // The bytes in the pool. They stay as they are while `pinned` lives, even if the key is deleted.
  absl::StatusOr<kv::PinnedValue> pinned = (*db)->Pin("planet/6");
  if (!pinned.ok()) return pinned.status();
  std::cout << pinned->value() << '\n';
  *pinned = kv::PinnedValue();

  std::unique_ptr<kv::Iterator> it = (*db)->NewIterator();
  for (it->Seek("planet/"); it->Valid(); it->Next()) {
    std::cout << it->key() << " = " << it->value() << '\n';
  }
  if (!it->status().ok()) return it->status();
  it.reset();
  return (*db)->Close();
}
// README example ends

namespace {

std::string TextBetween(const std::string& file, const std::string& begin, const std::string& end) {
  std::ifstream stream(file);
  std::stringstream text;
  text << stream.rdbuf();
  const size_t from = text.str().find(begin);
  const size_t to = text.str().find(end, from + begin.size());
  if (from == std::string::npos || to == std::string::npos) return "no such part in " + file;
  return text.str().substr(from + begin.size(), to - from - begin.size());
}

TEST(EmbeddingExampleTest, RunsAsTheReadmeShowsIt) {
  testing::internal::CaptureStdout();
  const absl::Status status = Remember(testing::TempDir() + "/embedding");
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "Saturn\nplanet/6 = Saturn\n");
  EXPECT_TRUE(status.ok()) << status;
}

TEST(EmbeddingExampleTest, IsTheReadmesText) {
  EXPECT_EQ(TextBetween("README.md", "```cpp\n", "```\n"),
            TextBetween("tests/kv/embedding_example_test.cc", "// README example begins\n",
                        "// README example ends\n"));
}

}  // namespace
