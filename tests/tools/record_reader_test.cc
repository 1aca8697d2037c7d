#include "tools/record_reader.h"

#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace daxkv::tools {
namespace {

using Records = std::vector<std::pair<std::string, std::string>>;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

struct ReadResult {
  Records records;
  absl::Status status;
  uint64_t skipped = 0;
  uint64_t bytes_read = 0;
};

ReadResult ReadAll(const char* format, std::string text) {
  // fmemopen refuses an empty buffer.
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::tmpfile(), std::fclose);
  std::fwrite(text.data(), 1, text.size(), file.get());
  std::rewind(file.get());
  std::unique_ptr<RecordReader> reader = *NewRecordReader(format, file.get());
  ReadResult result;
  std::string key;
  std::string value;
  while (true) {
    absl::StatusOr<bool> more = reader->Next(&key, &value);
    result.status = more.status();
    if (!more.ok() || !*more) break;
    result.records.emplace_back(key, value);
  }
  result.skipped = reader->skipped();
  result.bytes_read = reader->bytes_read();
  return result;
}

std::string Message(const ReadResult& result) { return std::string(result.status.message()); }

TEST(TsvTest, ReadsEscapedRecords) {
  const ReadResult result = ReadAll("tsv", "a\tb\nk\\t1\t\\x00v\\n\nempty\t\n");
  EXPECT_TRUE(result.status.ok());
  EXPECT_THAT(result.records, ElementsAre(Pair("a", "b"), Pair("k\t1", std::string("\0v\n", 3)),
                                          Pair("empty", "")));
  EXPECT_EQ(result.bytes_read, 4u + 13u + 7u);
}

TEST(TsvTest, TakesAFileWithoutLastNewlineAndAnEmptyOne) {
  EXPECT_THAT(ReadAll("tsv", "a\tb").records, ElementsAre(Pair("a", "b")));
  EXPECT_TRUE(ReadAll("tsv", "").status.ok());
}

TEST(TsvTest, NamesTheLineOfAMistake) {
  EXPECT_THAT(Message(ReadAll("tsv", "a\tb\nno tab\n")), HasSubstr("line 2: no tab"));
  EXPECT_THAT(Message(ReadAll("tsv", "a\tb\tc\n")), HasSubstr("line 1: more than one tab"));
  EXPECT_THAT(Message(ReadAll("tsv", "a\\q\tb\n")), HasSubstr("line 1: in the key"));
  EXPECT_THAT(Message(ReadAll("tsv", "a\tb\n\nc\td\n")), HasSubstr("line 2"));
  // What came before it was read.
  EXPECT_EQ(ReadAll("tsv", "a\tb\nno tab\n").records.size(), 1u);
}

TEST(DebianTest, ReadsStanzas) {
  const ReadResult result = ReadAll("debian",
                                    "Package: a\nVersion: 1:2.0-3\nDescription: x\n more\n"
                                    "\n\n"
                                    "Version:7\nPackage:b \n");
  EXPECT_TRUE(result.status.ok());
  EXPECT_THAT(result.records,
              ElementsAre(Pair("a/1:2.0-3", "Package: a\nVersion: 1:2.0-3\nDescription: x\n more"),
                          Pair("b/7", "Version:7\nPackage:b ")));
}

TEST(DebianTest, FieldsOfContinuationLinesAndOtherNamesDoNotCount) {
  const ReadResult result =
      ReadAll("debian", "Package: a\n Version: no\nPackage-Type: udeb\nVersion: 1\n");
  ASSERT_EQ(result.records.size(), 1u);
  EXPECT_EQ(result.records[0].first, "a/1");
}

TEST(DebianTest, CountsStanzasWithoutNameOrVersion) {
  const ReadResult result = ReadAll("debian", "Package: a\n\nPackage: b\nVersion: 1\n\nfoo\n");
  EXPECT_THAT(result.records, ElementsAre(Pair("b/1", "Package: b\nVersion: 1")));
  EXPECT_EQ(result.skipped, 2u);
}

TEST(FormatTest, OthersAreRefused) {
  EXPECT_EQ(NewRecordReader("csv", stdin).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace daxkv::tools
