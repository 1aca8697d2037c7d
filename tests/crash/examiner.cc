#include "tests/crash/examiner.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/crash/judge.h"
#include "tests/crash/pool_cache.h"
#include "tests/crash/recorder.h"
#include "tests/crash/recording.h"

namespace daxkv::crash {
namespace {

constexpr unsigned kPatienceSeconds = 60;  // With one image.
// Points get at least so many; with few images, some points are passed over.
constexpr uint64_t kLeastVariants = 6;
// Points differ in how many images they have. One is done when so many builds brought nothing
// new...
constexpr uint64_t kMostMisses = 20;
// ...and those that have many may have so many times their share.
constexpr uint64_t kMostShare = 4;
// For a mutation: at least so many images at a point, of which so many are next to a mutated call.
constexpr uint64_t kMutatedVariants = 5;
constexpr uint64_t kNearPoints = 2;

// So many of them or fewer, at equal distances, the last among them.
std::vector<uint64_t> ThinOut(const std::vector<uint64_t>& points, uint64_t count) {
  std::vector<uint64_t> left;
  const uint64_t size = points.size();
  for (uint64_t i = 1; i <= std::min(count, size); ++i) {
    left.push_back(points[i * size / std::min(count, size) - 1]);
  }
  return left;
}

uint64_t CountPoints(const Trace& trace) {
  return static_cast<uint64_t>(std::count_if(
      trace.begin(), trace.end(), [](const Event& e) { return e.kind == EventKind::kPoint; }));
}

Model ModelAfter(const std::vector<Operation>& setup) {
  Model model;
  for (const Operation& operation : setup) Apply(operation.changes, &model);
  return model;
}

}  // namespace

Examiner::Examiner(const Script& script, const Plan& plan, std::string directory, unsigned worker,
                   Progress* progress, std::atomic<bool>* stop)
    : script_(script),
      plan_(plan),
      directory_(std::move(directory)),
      worker_(worker),
      progress_(*progress),
      stop_(*stop),
      operations_(script.Recorded()),
      damage_(!script.repairs   ? Damage::kNone
              : script.lossless ? Damage::kLossless
                                : Damage::kSome) {}

// The plain images come first.
Survivors Examiner::SurvivorsOf(uint64_t variant) const {
  static constexpr Survivors kPlain[] = {Survivors::kNone, Survivors::kFlushed,
                                         Survivors::kEverything};
  static constexpr Survivors kMutated[] = {Survivors::kAllButWithheld, Survivors::kSomeWithheld,
                                           Survivors::kNone, Survivors::kAllButLastWithheld,
                                           Survivors::kFlushedButWithheld};
  if (plan_.for_mutation) {
    if (variant < std::size(kMutated)) return kMutated[variant];
    return variant % 2 == 0 ? Survivors::kRandom : Survivors::kSomeWithheld;
  }
  return variant < std::size(kPlain) ? kPlain[variant] : Survivors::kRandom;
}

// Half of them soon after mutated calls, the others at any time while something is missing.
std::vector<uint64_t> Examiner::ChooseMutatedPoints(const Trace& trace) const {
  CrashImage image({directory_ + "/image", script_.shape}, script_.platform);
  std::vector<uint64_t> near, far;
  uint64_t point = 0, near_left = 0;
  for (const Event& event : trace) {
    image.Apply(event);
    if (event.kind == EventKind::kWithheld) near_left = kNearPoints;
    if (event.kind != EventKind::kPoint) continue;
    ++point;
    if (image.IsMutated()) (near_left > 0 ? near : far).push_back(point);
    near_left -= near_left > 0 ? 1 : 0;
  }
  const uint64_t wanted = std::max<uint64_t>(2, Images() / kMutatedVariants);
  std::vector<uint64_t> chosen = ThinOut(far, wanted / 2);
  const std::vector<uint64_t> nearest = ThinOut(near, wanted - chosen.size());
  chosen.insert(chosen.end(), nearest.begin(), nearest.end());
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

std::vector<uint64_t> Examiner::ChoosePoints(const Trace& trace) const {
  if (plan_.only_point != 0) return {plan_.only_point};
  if (plan_.for_mutation) return ChooseMutatedPoints(trace);
  const uint64_t points = CountPoints(trace);
  const uint64_t stride = std::max<uint64_t>(1, points * kLeastVariants / Images());
  std::vector<uint64_t> chosen;
  for (uint64_t point = stride; point <= points; point += stride) chosen.push_back(point);
  return chosen;
}

void Examiner::Examine(const Trace& trace) {
  const std::vector<uint64_t> chosen = ChoosePoints(trace);
  if (chosen.empty()) return;
  variants_ = plan_.for_mutation ? std::max(kMutatedVariants, Images() / chosen.size())
                                 : std::max(kLeastVariants, Images() * kMostShare / chosen.size());
  CrashImage image({directory_ + "/image", script_.shape}, script_.platform);
  Expectation expected(ModelAfter(script_.setup));
  uint64_t point = 0;
  size_t next = 0;  // Of `chosen`.
  for (const Event& event : trace) {
    if (stop_.load(std::memory_order_relaxed)) break;
    image.Apply(event);
    if (event.kind == EventKind::kBegin) expected.Begin(operations_[event.a]);
    if (event.kind == EventKind::kEnd) {
      expected.End(operations_[event.a]);
      if (operations_[event.a]->heals) damage_ = Damage::kNone;
    }
    if (event.kind != EventKind::kPoint) continue;
    ++point;
    if (next == chosen.size() || point != chosen[next]) continue;
    if (next++ % plan_.workers == worker_) ExaminePoint(image, expected, point);
  }
  OpenCopiesOf(nullptr);
  progress_.real_opens = RealOpens();
}

void Examiner::ExaminePoint(CrashImage& image, const Expectation& expected, uint64_t point) {
  absl::flat_hash_set<uint64_t> here;  // Equal images at one point need one judgement.
  const bool all = plan_.only_point == 0;
  const uint64_t first = all ? 0 : plan_.only_variant;
  const uint64_t end = all ? ~uint64_t{0} : first + 1;
  uint64_t misses = 0;
  for (uint64_t variant = first; variant < end && here.size() < variants_ && misses < kMostMisses;
       ++variant) {
    if (stop_.load(std::memory_order_relaxed)) return;
    progress_.point = point;
    progress_.variant = variant;
    const uint64_t seed = ((plan_.seed << 32) + point) * 1000003 + variant;
    image.Patch(SurvivorsOf(variant), seed);
    ++misses;
    if (here.insert(image.Hash()).second) {
      misses = 0;
      const std::string where =
          absl::StrCat(script_.name, ", seed ", plan_.seed, ", point ", point, ", variant ",
                       variant, " (in flight: ", expected.InFlight(), ")");
      JudgeOne(image, expected, where);
      ++judged_;
      const bool recover = plan_.recoveries_every != 0 &&
                           (!all || (judged_ + worker_) % plan_.recoveries_every == 0) &&
                           !image.HasUntakenPart();  // The recorder follows no part that goes.
      if (recover && faults_ == 0) JudgeRecovery(image, expected, seed, where);
    }
    image.Unpatch();
  }
}

void Examiner::JudgeOne(CrashImage& image, const Expectation& expected, const std::string& where) {
  hashes_.insert(image.Hash());
  progress_.images.fetch_add(1, std::memory_order_relaxed);
  // Its own parts stay.
  const bool in_place = damage_ == Damage::kNone && !image.HasUntakenPart();
  const std::string fault = in_place ? JudgeInPlace(image, expected) : JudgeCopy(image, expected);
  if (fault.empty()) return;
  on_fault(absl::StrCat(where, ": ", fault, Keep(image)));
  if (++faults_ >= plan_.most_faults) stop_ = true;
}

std::string Examiner::JudgeInPlace(CrashImage& image, const Expectation& expected) {
  OpenCopiesOf(&image);
  alarm(kPatienceSeconds);
  std::string fault = JudgeImage(Damage::kNone, image.files(), expected);
  alarm(0);
  image.RemoveAddedParts();
  return fault;
}

// What a repair does has to be there when the store opens.
std::string Examiner::JudgeCopy(const CrashImage& image, const Expectation& expected) {
  const StoreFiles files(directory_ + "/copy", script_.shape);
  OpenCopiesOf(nullptr);
  image.CopyTo(files);
  alarm(kPatienceSeconds);
  std::string fault = JudgeImage(damage_, files, expected);
  alarm(0);
  return fault;
}

std::string Examiner::Keep(const CrashImage& image) {
  if (plan_.keep_in.empty()) return "";
  std::string path =
      absl::StrCat(plan_.keep_in, "/point", progress_.point.load(), ".", progress_.variant.load());
  if (progress_.recovery_point != 0) {
    absl::StrAppend(&path, ".recovery", progress_.recovery_point.load());
  }
  image.CopyTo({path, script_.shape});
  return absl::StrCat("; the image: ", path);
}

// Records how the store recovers from this image and takes new writes, and judges images of that.
void Examiner::JudgeRecovery(CrashImage& image, const Expectation& expected, uint64_t seed,
                             const std::string& where) {
  const StoreFiles files(directory_ + "/recovery", script_.shape);
  OpenCopiesOf(nullptr);
  image.CopyTo(files);
  Model found;
  std::vector<Operation> operations;
  Trace trace;
  {
    Recorder recorder(files);
    Store store(files);
    BeginProcess();
    Mutate(plan_.mutated, plan_.mutation);
    recorder.Start();
    const absl::Status opened = Recover(damage_, store);
    std::string fault = opened.ok() ? CompareStore(store.db(), expected, &found)
                                    : absl::StrCat("open: ", opened.ToString());
    CountsByName unused;
    if (fault.empty()) {
      operations = WritesAfterRecovery(found);
      fault = RecordOperations(operations, 0, store, recorder, &unused);
    }
    recorder.Stop();
    Mutate(CallSite(), plan_.mutation);
    if (!fault.empty()) on_fault(absl::StrCat(where, ", recovery: ", fault));
    trace = std::move(recorder.trace());
  }
  JudgeImagesOfRecovery(trace, operations, Expectation(std::move(found)), seed, where);
}

void Examiner::JudgeImagesOfRecovery(const Trace& trace, const std::vector<Operation>& operations,
                                     Expectation expected, uint64_t seed,
                                     const std::string& where) {
  const uint64_t points = CountPoints(trace);
  if (points == 0) return;
  const uint64_t each = std::max<uint64_t>(2, plan_.images_of_recovery / points);
  const uint64_t stride = std::max<uint64_t>(1, points * each / plan_.images_of_recovery);
  CrashImage second({directory_ + "/second", script_.shape}, script_.platform);
  uint64_t point = 0;
  for (const Event& event : trace) {
    second.Apply(event);
    if (event.kind == EventKind::kBegin) expected.Begin(&operations[event.a]);
    if (event.kind == EventKind::kEnd) expected.End(&operations[event.a]);
    if (event.kind != EventKind::kPoint || (++point + seed) % stride != 0) continue;
    progress_.recovery_point = point;
    absl::flat_hash_set<uint64_t> here;
    for (uint64_t i = 0; i < each; ++i) {
      second.Patch(i == 0 ? Survivors::kNone : Survivors::kRandom, seed * 31 + point * 1009 + i);
      if (here.insert(second.Hash()).second) {
        progress_.recovery_images.fetch_add(1, std::memory_order_relaxed);
        JudgeOne(second, expected, absl::StrCat(where, ", point ", point, " of its recovery"));
      }
      second.Unpatch();
    }
  }
  OpenCopiesOf(nullptr);
  progress_.recovery_point = 0;
}

}  // namespace daxkv::crash
