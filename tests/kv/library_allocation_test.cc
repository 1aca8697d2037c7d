// Memory that libpmemobj, libpmem and liburcu ask for and don't get: malloc and its kin fail when
// one of these libraries calls them, each call in turn, and then all from some call on. (What our
// own code asks for is allocation_failure_test's.)
//
// Each case runs in a process of its own, since a library may end it. Whatever happens there, the
// next process finds all that was acknowledged, and no fault.
//
// What the libraries do, in versions 1.12.1 and 0.13.2:
// - libpmemobj, creating and opening a pool, fails with a wrong reason in errno ("negative size",
//   EINVAL), and so the status is kFailedPrecondition; once its thread-local message can't be had
//   it aborts.
// - libpmemobj, allocating and in transactions, uses some of its memory without having asked
//   whether it is there, and ends the process by SIGSEGV, or aborts.
// - liburcu aborts (urcu_die) when a thread can't be registered or its callbacks' thread not be
//   made.
// None of that can be kept from outside. It counts as a crash of the process, of which a store
// recovers.
#include <dlfcn.h>
#include <link.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/kv/store_fixture.h"

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
}

namespace {

struct AddressRange {
  uintptr_t first = 0, end = 0;
};
AddressRange g_libraries[8];
std::atomic<bool> g_fails{false};
std::atomic<bool> g_all_after{false};
std::atomic<int> g_left{0};
std::atomic<int> g_failed{0};

int NoteLibrary(dl_phdr_info* info, size_t, void* count) {
  const std::string name = info->dlpi_name;
  bool wanted = false;
  for (const char* library : {"libpmemobj", "libpmem.", "liburcu"}) {
    wanted |= name.find(library) != std::string::npos;
  }
  if (!wanted) return 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    if (info->dlpi_phdr[i].p_type != PT_LOAD || (info->dlpi_phdr[i].p_flags & PF_X) == 0) continue;
    int& number = *static_cast<int*>(count);
    const uintptr_t first = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
    g_libraries[number++] = {first, first + info->dlpi_phdr[i].p_memsz};
  }
  return 0;
}

bool Fails(const void* caller) {
  if (!g_fails.load(std::memory_order_relaxed)) return false;
  const auto at = reinterpret_cast<uintptr_t>(caller);
  for (const AddressRange& library : g_libraries) {
    if (at < library.first || at >= library.end) continue;
    const int number = g_left.fetch_sub(1);
    const bool fails = number == 0 || (number < 0 && g_all_after.load());
    if (!fails) return false;
    g_failed.fetch_add(1);
    errno = ENOMEM;
    return true;
  }
  return false;
}

}  // namespace

extern "C" {
void* malloc(size_t size_bytes) {
  return Fails(__builtin_return_address(0)) ? nullptr : __libc_malloc(size_bytes);
}
void* calloc(size_t count, size_t size_bytes) {
  return Fails(__builtin_return_address(0)) ? nullptr : __libc_calloc(count, size_bytes);
}
void* realloc(void* memory, size_t size_bytes) {
  return Fails(__builtin_return_address(0)) ? nullptr : __libc_realloc(memory, size_bytes);
}
int posix_memalign(void** memory, size_t alignment, size_t size_bytes) {
  if (Fails(__builtin_return_address(0))) return ENOMEM;
  *memory = __libc_memalign(alignment, size_bytes);
  return *memory == nullptr ? ENOMEM : 0;
}
void* aligned_alloc(size_t alignment, size_t size_bytes) {
  return Fails(__builtin_return_address(0)) ? nullptr : __libc_memalign(alignment, size_bytes);
}
}

namespace daxkv::kv {
namespace {

constexpr int kMostTried = 8;  // Of a scenario's allocations, evenly spread.
constexpr int kRefused = 4;    // Exit codes of a child.
constexpr int kMisnamed = 6;
constexpr int kWrong = 5;

// What a call may do with a failure: work all the same, or say so.
void Require(const absl::Status& status, const char* what) {
  if (status.ok()) return;
  g_fails = false;
  fprintf(stderr, "%s: %s\n", what, status.ToString().c_str());
  if (status.message().empty()) _exit(kWrong);
  // The library does not always tell why it failed.
  _exit(absl::IsResourceExhausted(status) ? kRefused : kMisnamed);
}

std::unique_ptr<Db> OpenOrExit(const std::string& path) {
  absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path, TestOptions());
  Require(db.status(), "open");
  return *std::move(db);
}

struct Scenario {
  const char* name;
  // Until the failures begin, and from then on.
  std::function<std::unique_ptr<Db>(const std::string& path)> prepare;
  std::function<void(const std::string& path, std::unique_ptr<Db> db)> run;
};

const Scenario kScenarios[] = {
    {"Create", [](const std::string&) { return std::unique_ptr<Db>(); },
     [](const std::string& path, std::unique_ptr<Db>) { OpenOrExit(path + "2"); }},
    {"Open", [](const std::string&) { return std::unique_ptr<Db>(); },
     [](const std::string& path, std::unique_ptr<Db>) { OpenOrExit(path); }},
    {"PutThatGrows", OpenOrExit,
     [](const std::string&, std::unique_ptr<Db> db) {
       for (int i = 0; i < 12; ++i) {
         const absl::Status put = db->Put(absl::StrCat("large", i), std::string(4'000'000, 'l'));
         Require(put, "put");
       }
     }},
    {"DeleteAndCompact", OpenOrExit,
     [](const std::string&, std::unique_ptr<Db> db) {
       for (int i = 0; i < 12; ++i) {
         Require(db->Put(absl::StrCat("large", i), std::string(4'000'000, 'l')), "put");
       }
       for (int i = 0; i < 12; ++i) Require(db->Delete(absl::StrCat("large", i)), "delete");
       Require(db->Compact().status(), "compact");
     }},
    {"Close", OpenOrExit,
     [](const std::string&, std::unique_ptr<Db> db) {
       Require(db->Put("one more", "value"), "put");
       Require(db->Close(), "close");
     }},
};

class LibraryAllocationTest : public testing::TestWithParam<std::tuple<int, bool>> {};
INSTANTIATE_TEST_SUITE_P(Scenarios, LibraryAllocationTest,
                         testing::Combine(testing::Range(0, 5), testing::Bool()),
                         [](const auto& info) {
                           return absl::StrCat(kScenarios[std::get<0>(info.param)].name,
                                               std::get<1>(info.param) ? "AllAfter" : "One");
                         });

// What the store held before.
bool IsWhole(const std::string& path) {
  absl::StatusOr<std::unique_ptr<Db>> db = Db::Open(path, TestOptions());
  if (!db.ok()) {
    fprintf(stderr, "afterwards: %s\n", db.status().ToString().c_str());
    return false;
  }
  for (int i = 0; i < 200; ++i) {
    const absl::StatusOr<std::string> got = (*db)->Get(NumberedKey(i));
    if (!got.ok() || *got != ValueFor(NumberedKey(i), 0, 500)) return false;
  }
  const absl::StatusOr<CheckReport> report = (*db)->Check();
  return report.ok() && report->faults.empty() && (*db)->Put("afterwards", "works").ok();
}

int InChild(const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  int state = 0;
  waitpid(child, &state, 0);
  return state;
}

TEST_P(LibraryAllocationTest, IsToldOrACrash) {
  const Scenario& scenario = kScenarios[std::get<0>(GetParam())];
  int libraries = 0;
  dl_iterate_phdr(NoteLibrary, &libraries);
  ASSERT_GT(libraries, 2);
  TemporaryDirectory directory(Medium::kTmpfs);
  ASSERT_EQ(InChild([&] {
              std::unique_ptr<Db> db = OpenOrExit(directory.Path("first"));
              for (int i = 0; i < 200; ++i) {
                Require(db->Put(NumberedKey(i), ValueFor(NumberedKey(i), 0, 500)), "put");
              }
              Require(db->Close(), "close");
              return 0;
            }),
            0);
  int refused = 0, misnamed = 0, survived = 0;
  std::map<int, int> died;  // By signal.
  auto* const shared = static_cast<std::atomic<int>*>(
      mmap(nullptr, sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(shared, MAP_FAILED);
  // First none fails: how many there are.
  constexpr int kMany = 1'000'000'000;
  int count = 0, tried = 0;
  for (int allowed = kMany; allowed == kMany || allowed < count;
       allowed = allowed == kMany ? 0 : allowed + std::max(1, count / kMostTried)) {
    const std::string path = directory.Path("store");
    std::filesystem::remove_all(path);
    std::filesystem::remove_all(path + "2");
    std::filesystem::copy(directory.Path("first"), path, std::filesystem::copy_options::recursive);
    const int state = InChild([&] {
      alarm(20);
      std::unique_ptr<Db> db = scenario.prepare(path);
      g_left = allowed;
      g_all_after = std::get<1>(GetParam());
      g_fails = true;
      scenario.run(path, std::move(db));
      g_fails = false;
      *shared = kMany - g_left;
      return 0;
    });
    if (allowed == kMany) {
      ASSERT_EQ(state, 0);
      count = *shared;
      continue;
    }
    ++tried;
    if (WIFSIGNALED(state)) {
      ++died[WTERMSIG(state)];
    } else {
      ASSERT_TRUE(WIFEXITED(state));
      misnamed += WEXITSTATUS(state) == kMisnamed;
      refused += WEXITSTATUS(state) == kRefused;
      survived += WEXITSTATUS(state) == 0;
      EXPECT_TRUE(WEXITSTATUS(state) != kWrong && WEXITSTATUS(state) != 1)
          << "allocation " << allowed;
    }
    EXPECT_EQ(InChild([&] { return IsWhole(path) ? 0 : 1; }), 0) << "after allocation " << allowed;
    if (HasFailure()) break;
  }
  std::cout << tried << " of " << count << " allocations failed: " << refused
            << " say that memory is short, " << misnamed << " something else, " << survived
            << " worked all the same";
  for (const auto& [signal, count] : died) {
    std::cout << ", " << count << " ended by signal " << signal;
    EXPECT_TRUE(signal == SIGABRT || signal == SIGSEGV);  // It never hangs.
  }
  std::cout << "\n";
}

}  // namespace
}  // namespace daxkv::kv
