// A memory file system of a test's own, of which nothing is left however the test ends.
#ifndef DAXKV_TESTS_DAX_OWN_TMPFS_H_
#define DAXKV_TESTS_DAX_OWN_TMPFS_H_

#include <sched.h>
#include <sys/mount.h>

#include <string>

namespace daxkv::dax {

// Mounts one on the directory `path`, `options` being tmpfs's ("size=64m"). It is seen by this
// thread and by threads and processes that it makes from now on, and goes with the last of them: a
// killed test leaves no mount behind. Undone before that by umount2. False, with errno: no right
// to.
inline bool MountOwnTmpfs(const std::string& path, const std::string& options) {
  static const int unshared = unshare(CLONE_NEWNS);
  if (unshared != 0) return false;
  // Or else the system may get the mount nevertheless. (In a chroot this fails.)
  mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
  return mount("daxkv_test", path.c_str(), "tmpfs", 0, options.c_str()) == 0;
}

}  // namespace daxkv::dax

#endif  // DAXKV_TESTS_DAX_OWN_TMPFS_H_
