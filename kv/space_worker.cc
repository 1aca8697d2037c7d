#include "kv/space_worker.h"

#include <algorithm>

#include "dax/media_guard.h"

namespace daxkv::kv {

SpaceWorker::SpaceWorker() : thread_([this] { Loop(); }) {}

SpaceWorker::~SpaceWorker() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  wakeup_.notify_one();
  thread_.join();
}

void SpaceWorker::Attach(Task* task) {
  std::lock_guard<std::mutex> lock(mutex_);
  tasks_.push_back(task);
}

void SpaceWorker::Detach(Task* task) noexcept {
  std::unique_lock<std::mutex> lock(mutex_);
  tasks_.erase(std::remove(tasks_.begin(), tasks_.end(), task), tasks_.end());
  task->due_ = Clock::time_point::max();
  idle_.wait(lock, [&] { return running_ != task; });
}

void SpaceWorker::Call(Task* task, std::chrono::milliseconds delay) noexcept {
  const Clock::time_point due = Clock::now() + delay;
  std::lock_guard<std::mutex> lock(mutex_);
  if (due >= task->due_) return;
  task->due_ = due;
  wakeup_.notify_one();
}

SpaceWorker::Task* SpaceWorker::Next() const {
  const auto next = std::min_element(
      tasks_.begin(), tasks_.end(), [](const Task* a, const Task* b) { return a->due_ < b->due_; });
  return next == tasks_.end() || (*next)->due_ == Clock::time_point::max() ? nullptr : *next;
}

void SpaceWorker::Loop() noexcept {
  const dax::SurviveMediaErrors survive;
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stopping_) {
    Task* const task = Next();
    if (task == nullptr) {
      wakeup_.wait(lock);
      continue;
    }
    if (task->due_ > Clock::now()) {
      // By value: the task may be detached, and gone, meanwhile.
      const Clock::time_point due = task->due_;
      wakeup_.wait_until(lock, due);
      continue;
    }
    task->due_ = Clock::time_point::max();
    running_ = task;
    lock.unlock();
    const std::optional<std::chrono::milliseconds> again = task->Run();
    lock.lock();
    running_ = nullptr;
    // Still there: Detach waits for us.
    if (again.has_value()) task->due_ = std::min(task->due_, Clock::now() + *again);
    idle_.notify_all();
  }
}

}  // namespace daxkv::kv
