// One thread that does what spaces leave for later: freeing what was retired, deriving extents,
// making room. The spaces of a store share it, so that a thousand keyspaces are not a thousand
// threads. Internal to kv/.
//
// Thread safety: every method from any thread, except the destructor, which needs quiet.
//
// Invariants
//   J1  A task runs on the worker's thread only, one at a time, and never after its Detach
//       returned.
//   J2  A Call that comes while the task runs is followed by another run.
#ifndef DAXKV_KV_SPACE_WORKER_H_
#define DAXKV_KV_SPACE_WORKER_H_

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace daxkv::kv {

class SpaceWorker {
 public:
  using Clock = std::chrono::steady_clock;

  class Task {
   public:
    virtual ~Task() = default;
    // What there is to do now; after how long it wants to be run again at the latest, if at all.
    virtual std::optional<std::chrono::milliseconds> Run() noexcept = 0;

   private:
    friend class SpaceWorker;
    Clock::time_point due_ = Clock::time_point::max();  // The worker's mutex.
  };

  SpaceWorker();
  // No task is attached.
  ~SpaceWorker();
  SpaceWorker(const SpaceWorker&) = delete;
  SpaceWorker& operator=(const SpaceWorker&) = delete;

  // Throws std::bad_alloc.
  void Attach(Task* task);
  // Waits while it runs.
  void Detach(Task* task) noexcept;
  // Has an attached task run within `delay`. A task that is not attached (any more) is passed over.
  void Call(Task* task, std::chrono::milliseconds delay) noexcept;

 private:
  void Loop() noexcept;
  // The attached task that is due first; null: there is none. Needs mutex_.
  Task* Next() const;

  std::mutex mutex_;
  std::condition_variable wakeup_, idle_;
  std::vector<Task*> tasks_;       // mutex_
  const Task* running_ = nullptr;  // mutex_
  bool stopping_ = false;          // mutex_
  std::thread thread_;             // Last: it uses all of the above.
};

}  // namespace daxkv::kv

#endif  // DAXKV_KV_SPACE_WORKER_H_
