#include "tools/text.h"

#include <string>

#include "gtest/gtest.h"

namespace daxkv::tools {
namespace {

TEST(EscapedTest, PlainTextStaysAsItIs) { EXPECT_EQ(Escaped("a b~!"), "a b~!"); }

TEST(EscapedTest, SeparatorsAndBackslashAreNamed) {
  EXPECT_EQ(Escaped("a\tb\nc\rd\\e"), "a\\tb\\nc\\rd\\\\e");
}

TEST(EscapedTest, OtherBytesAreTwoHexDigits) {
  EXPECT_EQ(Escaped(std::string_view("\0\x1f\x7f\xff", 4)), "\\x00\\x1f\\x7f\\xff");
  // A hex digit after an escape is not taken into it.
  EXPECT_EQ(*Unescaped(Escaped(std::string("\x01") + "f")), std::string("\x01") + "f");
}

TEST(EscapedTest, EveryByteComesBack) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all.push_back(static_cast<char>(byte));
  all += all;
  const std::string text = Escaped(all);
  EXPECT_EQ(text.find_first_of("\t\n\r"), std::string::npos);
  EXPECT_EQ(*Unescaped(text), all);
}

TEST(UnescapedTest, TakesTheOtherEscapesOfC) {
  EXPECT_EQ(*Unescaped("\\a\\b\\f\\v\\e\\\"\\'\\?\\101\\0"),
            std::string("\a\b\f\v\x1b\"'?A\0", 10));
}

TEST(UnescapedTest, SaysWhatIsWrongAndWhere) {
  for (const char* bad : {"\\", "ab\\", "\\q", "\\x", "\\x1", "\\xg0", "\\777"}) {
    const absl::StatusOr<std::string> result = Unescaped(bad);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_NE(Unescaped("ab\\q").status().message().find("byte 2"), std::string::npos);
}

TEST(HumanBytesTest, PicksTheUnit) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(1023), "1023 B");
  EXPECT_EQ(HumanBytes(1536), "1.5 KiB");
  EXPECT_EQ(HumanBytes(uint64_t{200} << 20), "200 MiB");
  EXPECT_EQ(HumanBytes(UINT64_MAX), "16.0 EiB");
}

TEST(GroupedTest, PutsCommasByThrees) {
  EXPECT_EQ(Grouped(0), "0");
  EXPECT_EQ(Grouped(999), "999");
  EXPECT_EQ(Grouped(1000), "1,000");
  EXPECT_EQ(Grouped(1234567), "1,234,567");
}

TEST(ParseBytesTest, TakesUnits) {
  EXPECT_EQ(*ParseBytes("4096"), 4096u);
  EXPECT_EQ(*ParseBytes("12M"), 12u << 20);
  EXPECT_EQ(*ParseBytes("1g"), 1u << 30);
  EXPECT_EQ(*ParseBytes("2 GiB"), uint64_t{2} << 30);
  EXPECT_EQ(*ParseBytes("3kb"), 3072u);
}

TEST(ParseBytesTest, RefusesTheRest) {
  for (const char* bad : {"", "x", "-1", "1.5G", "1Q", "1MM", "9223372036854775808", "9000000T",
                          "99999999999999999999"}) {
    EXPECT_EQ(ParseBytes(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

}  // namespace
}  // namespace daxkv::tools
