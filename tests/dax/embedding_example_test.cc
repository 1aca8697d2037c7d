// The README's example of the dax layer alone, compiled and run. A second test compares the two
// texts.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>

// README example begins
#include "dax/mapping.h"
#include "dax/pool.h"

namespace dax = daxkv::dax;

absl::Status Show(dax::Pool& pool, const dax::Run& picture) {
  const std::unique_ptr<dax::ExtentProvider> provider = dax::NewIdentityProvider(&pool);
  dax::Mapping mapping(&pool, provider.get());
  {
    absl::StatusOr<dax::Pinned> pinned = mapping.Pin(picture.first_page, dax::Access::kRead);
    if (!pinned.ok()) return pinned.status();
    std::cout << std::string_view(pinned->data(), 13) << '\n';
    // While `pinned` lives, nobody can take the bytes away. A deadline in the past means: try.
    const absl::Status busy =
        mapping.Truncate(picture.first_page, picture.pages, absl::InfinitePast());
    if (!absl::IsDeadlineExceeded(busy)) return absl::InternalError("taken away while pinned");
  }
  // Waits for pins, if there are any, then gives the blocks back to the file system.
  return mapping.Truncate(picture.first_page, picture.pages, absl::InfiniteFuture());
}

absl::Status KeepAndShow(const std::string& path) {
  absl::StatusOr<std::unique_ptr<dax::Pool>> pool = dax::Pool::Open(path, dax::PoolOptions());
  if (!pool.ok()) return pool.status();

  // 2 MiB, aligned to as much, with blocks of the file behind every byte.
  absl::StatusOr<dax::Run> run = (*pool)->AllocateRun(512, /*kind=*/1, /*owner=*/0, 2 << 20);
  if (!run.ok()) return run.status();
  char* bytes = (*pool)->At(run->offset());
  std::memcpy(bytes, "a large image", 13);
  absl::Status status = (*pool)->Persist(bytes, 13);   // The bytes first...
  if (status.ok()) status = (*pool)->CommitRun(*run);  // ...then that there are any.
  if (status.ok()) status = Show(**pool, *run);
  if (!status.ok()) return status;
  return (*pool)->Close();
}
// README example ends

namespace {

TEST(EmbeddingExampleTest, Runs) {
  std::string folder = "/dev/shm/dax_example_XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  testing::internal::CaptureStdout();
  const absl::Status status = KeepAndShow(folder + "/pool");
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "a large image\n");
  EXPECT_TRUE(status.ok()) << status;
  absl::StatusOr<std::unique_ptr<dax::Pool>> again =
      dax::Pool::Open(folder + "/pool", dax::PoolOptions());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE((*again)->was_clean());
  const absl::Status visited = (*again)->ForEachRun(
      [](const dax::Run& run) { return absl::InternalError(std::to_string(run.first_page)); });
  EXPECT_TRUE(visited.ok()) << "a run is left: " << visited;
  again->reset();
  std::filesystem::remove_all(folder);
}

TEST(EmbeddingExampleTest, IsWhatTheReadmeSays) {
  const auto text_of = [](const std::string& name) {
    std::ostringstream text;
    text << std::ifstream(name).rdbuf();
    return text.str();
  };
  const std::string source = text_of("tests/dax/embedding_example_test.cc");
  const std::string begin = std::string("// README example") + " begins\n";
  const size_t first = source.find(begin) + begin.size();
  const size_t end = source.find(std::string("// README example") + " ends\n");
  ASSERT_TRUE(first < end && end != std::string::npos);
  const std::string code = "```cpp\n" + source.substr(first, end - first) + "```\n";
  EXPECT_NE(text_of("README.md").find(code), std::string::npos);
}

}  // namespace
