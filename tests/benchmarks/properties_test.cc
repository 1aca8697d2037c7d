#include "benchmarks/ycsb/properties.h"

#include <fstream>
#include <string>

#include "gtest/gtest.h"

namespace daxkv::ycsb {
namespace {

std::string ValueOf(const Properties& properties, const std::string& name) {
  const auto found = properties.values().find(name);
  return found == properties.values().end() ? "(none)" : found->second.text;
}

std::string OriginOf(const Properties& properties, const std::string& name) {
  const auto found = properties.values().find(name);
  return found == properties.values().end() ? "(none)" : found->second.origin;
}

TEST(PropertiesTest, ReadsTheSeparatorsCommentsAndEscapesOfJava) {
  Properties properties;
  const std::string text =
      "# a comment = not this\n"
      "! nor this\n"
      "\n"
      "equals=1\n"
      "  indented = 2 \n"
      "colon: 3\n"
      "blank 4\n"
      "windows=5\r\n"
      "joined=one,\\\n"
      "    two\n"
      "escaped\\=name=a\\tb\\u0041\\\\\n"
      "empty=\n"
      "nothing\n"
      "url=http://x:1/y=z\n"
      "# ends in a backslash \\\n"
      "last=6";
  ASSERT_TRUE(properties.Parse(text, "file").ok());
  EXPECT_EQ(ValueOf(properties, "equals"), "1");
  EXPECT_EQ(ValueOf(properties, "indented"), "2");
  EXPECT_EQ(ValueOf(properties, "colon"), "3");
  EXPECT_EQ(ValueOf(properties, "blank"), "4");
  EXPECT_EQ(ValueOf(properties, "windows"), "5");
  EXPECT_EQ(ValueOf(properties, "joined"), "one,two");
  EXPECT_EQ(ValueOf(properties, "escaped=name"), "a\tbA\\");
  EXPECT_EQ(ValueOf(properties, "empty"), "");
  EXPECT_EQ(ValueOf(properties, "nothing"), "");
  EXPECT_EQ(ValueOf(properties, "url"), "http://x:1/y=z");
  EXPECT_EQ(ValueOf(properties, "last"), "6");
  EXPECT_EQ(properties.values().size(), 11u);
}

TEST(PropertiesTest, RemembersWhereAValueCameFrom) {
  Properties properties;
  ASSERT_TRUE(properties.Parse("a=1\nb=\\\n2\nc=3\n", "file").ok());
  EXPECT_EQ(OriginOf(properties, "a"), "file:1");
  EXPECT_EQ(OriginOf(properties, "b"), "file:2");
  EXPECT_EQ(OriginOf(properties, "c"), "file:4");
  ASSERT_TRUE(properties.Set("a=2").ok());
  EXPECT_EQ(OriginOf(properties, "a"), "-p");
  EXPECT_EQ(ValueOf(properties, "a"), "2");
}

TEST(PropertiesTest, RefusesWhatIsNoProperty) {
  Properties properties;
  EXPECT_EQ(properties.Parse("a=1\n=2\n", "file").message(), "file:2: a value without a name");
  EXPECT_EQ(properties.Parse("a=\\u12\n", "file").message(),
            "file:1: \\u needs four hexadecimal digits");
  EXPECT_EQ(properties.Set("recordcount").message(), "-p \"recordcount\": give name=value");
  EXPECT_EQ(properties.ReadFile("/no/such/file").code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(properties.ReadFile("/").ok());
}

TEST(PropertiesTest, ReadsAFileAndNamesItShortly) {
  const std::string path = testing::TempDir() + "/some_workload";
  std::ofstream(path) << "recordcount=7\n";
  Properties properties;
  ASSERT_TRUE(properties.ReadFile(path).ok());
  EXPECT_EQ(ValueOf(properties, "recordcount"), "7");
  EXPECT_EQ(OriginOf(properties, "recordcount"), "some_workload:1");
}

class SettingsTest : public testing::Test {
 protected:
  absl::StatusOr<Settings> Make(const std::string& text) {
    Properties properties;
    EXPECT_TRUE(properties.Parse(text, "file").ok());
    return Settings::Make(properties, rules_);
  }
  std::string ErrorOf(const std::string& text) {
    return std::string(Make(text).status().message());
  }

  const std::vector<PropertyRule> rules_ = {
      WholeRule("recordcount", "1000", 1, 5000, "records"),
      RealRule("readproportion", "0.95", 0, 1, "reads"),
      FlagRule("readallfields", true, "all"),
      ChoiceRule("requestdistribution", {"uniform", "zipfian"}, "keys"),
      TextRule("table", "usertable", "name"),
  };
};

TEST_F(SettingsTest, GivesDefaultsAndValues) {
  absl::StatusOr<Settings> settings = Make("recordcount=5000\nreadallfields=FALSE\n");
  ASSERT_TRUE(settings.ok()) << settings.status();
  EXPECT_EQ(settings->Whole("recordcount"), 5000);
  EXPECT_TRUE(settings->IsSet("recordcount"));
  EXPECT_EQ(settings->Origin("recordcount"), "file:1");
  EXPECT_FALSE(settings->Flag("readallfields"));
  EXPECT_DOUBLE_EQ(settings->Real("readproportion"), 0.95);
  EXPECT_EQ(settings->Text("requestdistribution"), "uniform");
  EXPECT_EQ(settings->Text("table"), "usertable");
  EXPECT_FALSE(settings->IsSet("table"));
  EXPECT_EQ(settings->Origin("table"), "default");
}

TEST_F(SettingsTest, NamesAnUnknownPropertyAndTheNearestKnown) {
  EXPECT_EQ(ErrorOf("recordcoutn=1"),
            "file:1: unknown property \"recordcoutn\"; did you mean \"recordcount\"?");
  EXPECT_EQ(ErrorOf("RecordCount=1"),
            "file:1: unknown property \"RecordCount\"; did you mean \"recordcount\"?");
  EXPECT_EQ(ErrorOf("zzz=1"), "file:1: unknown property \"zzz\"; ycsb --help lists the known ones");
}

TEST_F(SettingsTest, NamesABadValueAndWhatIsAccepted) {
  for (const char* bad : {"0", "5001", "-1", "1e3", "ten", "", "12x", "99999999999999999999"}) {
    EXPECT_EQ(ErrorOf(std::string("\nrecordcount=") + bad),
              std::string("file:2: recordcount: \"") + bad +
                  "\" is not accepted: give a whole number from 1 to 5000");
  }
  for (const char* bad : {"1.5", "nan", "inf", "-0.1", "x"}) {
    EXPECT_EQ(ErrorOf(std::string("readproportion=") + bad),
              std::string("file:1: readproportion: \"") + bad +
                  "\" is not accepted: give a number from 0 to 1");
  }
  EXPECT_EQ(ErrorOf("readallfields=yes"),
            "file:1: readallfields: \"yes\" is not accepted: give true or false");
  EXPECT_EQ(ErrorOf("requestdistribution=zipf"),
            "file:1: requestdistribution: \"zipf\" is not accepted: give one of uniform, zipfian");
}

}  // namespace
}  // namespace daxkv::ycsb
