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

// README example 2 begins
absl::Status Move(kv::Db& db, const std::string& backup_file) {
  // Both or neither, over a crash too.
  kv::WriteBatch batch;
  absl::Status status = batch.Delete("planet/9");
  if (status.ok()) status = batch.Put("dwarf/1", "Pluto");

  // What was there before stays readable through a snapshot.
  absl::StatusOr<kv::Snapshot> before = db.GetSnapshot();
  if (!before.ok()) return before.status();
  if (status.ok()) status = db.Write(batch);
  if (!status.ok()) return status;

  kv::IteratorOptions then;
  then.snapshot = &*before;
  then.upper_bound = "planet0";  // The first key behind all "planet/..." ones.
  std::unique_ptr<kv::Iterator> it = db.NewIterator(then);
  for (it->SeekToLast(); it->Valid(); it->Prev()) {
    std::cout << "before: " << it->key() << " = " << it->value() << '\n';
  }
  if (!it->status().ok()) return it->status();

  // A snapshot of now as one file, to be restored to a new store.
  absl::StatusOr<kv::BackupSummary> saved = kv::BackupToFile(db, backup_file);
  if (!saved.ok()) return saved.status();
  return kv::RestoreFromFile(backup_file, backup_file + ".store", kv::Options()).status();
}
// README example 2 ends

namespace {

// What follows the `number`-th `begin`.
std::string TextBetween(const std::string& file, const std::string& begin, const std::string& end,
                        int number = 1) {
  std::ifstream stream(file);
  std::stringstream text;
  text << stream.rdbuf();
  size_t from = text.str().find(begin);
  for (; number > 1 && from != std::string::npos; --number) {
    from = text.str().find(begin, from + begin.size());
  }
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
  EXPECT_EQ(TextBetween("README.md", "```cpp\n", "```\n", 2),
            TextBetween("tests/kv/embedding_example_test.cc", "// README example 2 begins\n",
                        "// README example 2 ends\n"));
}

TEST(EmbeddingExampleTest, MovesAsTheReadmeShowsIt) {
  const std::string path = testing::TempDir() + "/moving";
  absl::StatusOr<std::unique_ptr<kv::Db>> db = kv::Db::Open(path, kv::Options());
  ASSERT_TRUE(db.ok()) << db.status();
  ASSERT_TRUE((*db)->Put("planet/8", "Neptune").ok());
  ASSERT_TRUE((*db)->Put("planet/9", "Pluto").ok());
  testing::internal::CaptureStdout();
  const absl::Status status = Move(**db, path + ".backup");
  EXPECT_EQ(testing::internal::GetCapturedStdout(),
            "before: planet/9 = Pluto\nbefore: planet/8 = Neptune\n");
  ASSERT_TRUE(status.ok()) << status;
  absl::StatusOr<std::unique_ptr<kv::Db>> again =
      kv::Db::Open(path + ".backup.store", kv::Options());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ((*again)->Get("dwarf/1").value_or(""), "Pluto");
  EXPECT_TRUE(absl::IsNotFound((*again)->Get("planet/9").status()));
}

}  // namespace
