// What the pool makes of character devices, as far as that can be seen without one of /dev/dax.
#include <filesystem>
#include <fstream>
#include <string>

#include "dax/backing_files.h"
#include "dax/media.h"
#include "tests/dax/pool_test_base.h"

namespace daxkv::dax {
namespace {

// The directory that the kernel has for a device, made up.
class SysfsTest : public testing::Test {
 protected:
  void Write(const std::string& name, const std::string& text) {
    const std::filesystem::path path = directory_.Child(name);
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  absl::StatusOr<BackingFiles::DeviceShape> Read() {
    return BackingFiles::ReadDeviceShape(directory_.path(), "/dev/dax9.9");
  }

  ScratchDirectory directory_{ScratchDirectory::OnMemory()};
};

TEST_F(SysfsTest, SizeIsRoundedDownToTheAlignment) {
  Write("size", "1071644672\n");
  Write("align", "2097152\n");
  const absl::StatusOr<BackingFiles::DeviceShape> shape = Read();
  ASSERT_OK(shape.status());
  EXPECT_EQ(shape->alignment_bytes, 2 * kTestMiB);
  EXPECT_EQ(shape->size_bytes, 1071644672u / (2 * kTestMiB) * (2 * kTestMiB));
}

TEST_F(SysfsTest, AlignmentMayLieWithTheParentOrBeMissing) {
  Write("size", "67108864\n");
  EXPECT_EQ(Read()->alignment_bytes, 2 * kTestMiB);
  Write("device/align", "4096\n");
  EXPECT_EQ(Read()->alignment_bytes, 4096u);
}

TEST_F(SysfsTest, WhatIsNoDaxDeviceIsRefused) {
  EXPECT_EQ(Read().status().code(), absl::StatusCode::kFailedPrecondition);
  Write("size", "not a number\n");
  EXPECT_EQ(Read().status().code(), absl::StatusCode::kFailedPrecondition);
  Write("size", "67108864\n");
  for (const char* alignment : {"0\n", "12345\n", "1073741824\n"}) {
    Write("align", alignment);
    EXPECT_EQ(Read().status().code(), absl::StatusCode::kFailedPrecondition) << alignment;
  }
}

// Real devices, though not of the right kind: refused, with the reason, and left alone.
TEST(DeviceTest, OtherDevicesAreNoPools) {
  for (const char* device : {"/dev/zero", "/dev/null"}) {
    const absl::Status opened = Pool::Open(device, TestOptions()).status();
    EXPECT_EQ(opened.code(), absl::StatusCode::kFailedPrecondition) << opened;
    EXPECT_NE(opened.message().find("no DAX device"), std::string::npos) << opened;
    EXPECT_FALSE(std::filesystem::exists(std::string(device) + ".lock"));
  }
}

}  // namespace
}  // namespace daxkv::dax
