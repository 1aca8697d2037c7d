// SIGBUS, handled in one place for all pools of the process.
//
// A page of the mapping that can't be had (a media error, a device that fails, a file cut short by
// somebody else) makes the kernel send SIGBUS to the thread that touches it. What the handler does,
// by what the kernel says about the signal:
//
//   si_code        meaning                               handled by
//   BUS_MCEERR_AR  a machine check on this very access   replacing the page (below)
//   BUS_ADRERR     nothing there: end of file, I/O error replacing the page
//   BUS_MCEERR_AO  a page was lost that nobody touched   noting it; the thread goes on
//   anything else, or an address in no pool              the handler that was there before
//
// Replacing: private memory is mapped over the page, so that the thread, in whatever library or
// system call wrapper it is, goes on, with zeros. That is chosen over jumping out of the access
// (siglongjmp): no frame with a destructor, no half-done std::string and no lock of ours or of
// libpmemobj's is left behind, and code that reads pays nothing. Its price: for some instructions a
// thread works with zeros. So
//   - it is done only inside a MediaGuard, where our own code is at work, which afterwards sees by
//     LostPages::events() that a page was lost and never hands out what it read. Elsewhere, where a
//     program reads bytes that it has pinned, the previous handler is called, as for any mapped
//     file: a program is killed rather than told a wrong value, unless it asks otherwise
//     (SigbusPolicy::kAlways);
//   - the private memory may be written, or else writers would be killed in our own code; what is
//     written there is refused when the writer wants it acknowledged (Persister::Drain).
//
// The previous handler is kept and called, with the same arguments, for every signal that is not
// ours; the default action happens as if we were not there. The first pool that wants it installs
// the handler and the last one takes it away again, unless somebody has put his own over it since,
// who then goes on chaining to ours, which finds no pool and chains on.
//
// Not handled: /dev/dax devices are mapped in units of 2 MiB, of which the kernel lets no 4 KiB be
// replaced; there a lost page is noted, and the previous handler is called.
#ifndef DAXKV_DAX_SIGBUS_H_
#define DAXKV_DAX_SIGBUS_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "dax/lost_pages.h"
#include "dax/media_guard.h"

namespace daxkv::dax {

// While it lives, the addresses [base, base + size_bytes) are a pool's.
class SigbusRegion {
 public:
  // `lost` must outlive it. With kOff nothing is registered.
  //   kResourceExhausted  kMaxRegions pools are open
  static absl::StatusOr<std::unique_ptr<SigbusRegion>> Register(const char* base,
                                                                uint64_t size_bytes,
                                                                SigbusPolicy policy,
                                                                LostPages* lost);
  // No thread may be inside the pool.
  ~SigbusRegion();
  SigbusRegion(const SigbusRegion&) = delete;
  SigbusRegion& operator=(const SigbusRegion&) = delete;

  static constexpr int kMaxRegions = 256;

 private:
  explicit SigbusRegion(int number) : number_(number) {}
  const int number_;  // -1: none.
};

}  // namespace daxkv::dax

#endif  // DAXKV_DAX_SIGBUS_H_
