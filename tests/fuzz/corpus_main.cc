// Runs a fuzz target where clang's libFuzzer is not there: over all files of a corpus, and over so
// many inputs made of them by chance, the same each time.
//
//   TARGET [--runs=N] [--seed=N] FILE_OR_DIRECTORY...
//
// It dies of what it finds, and says of which input's number; --only=N runs that one alone.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "tests/fuzz/fuzz_target.h"

namespace daxkv::fuzz {
namespace {

constexpr unsigned kTimeLimitSeconds = 60;  // For one input.
constexpr size_t kMaxInputSizeBytes = 4096;

using Random = std::mt19937_64;

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// Files, and the files in directories, in the order of their names.
std::vector<std::string> ReadCorpus(const std::vector<std::string>& paths) {
  std::vector<std::filesystem::path> files;
  for (const std::string& path : paths) {
    if (!std::filesystem::is_directory(path)) {
      files.emplace_back(path);
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  std::vector<std::string> corpus;
  for (const std::filesystem::path& file : files) corpus.push_back(ReadFile(file));
  return corpus;
}

std::string RandomBytes(Random& random, size_t size_bytes) {
  std::string bytes(size_bytes, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

void Mutate(const std::vector<std::string>& corpus, Random& random, std::string* input) {
  const size_t at = input->empty() ? 0 : random() % input->size();
  switch (random() % 6) {
    case 0:
      input->insert(at, RandomBytes(random, 1 + random() % 16));
      break;
    case 1:
      input->erase(at, 1 + random() % 16);
      break;
    case 2:
      if (!input->empty()) (*input)[at] = static_cast<char>(random());
      break;
    case 3:
      if (!input->empty()) (*input)[at] = static_cast<char>((*input)[at] ^ 1 << random() % 8);
      break;
    case 4:
      *input = input->substr(0, at);
      if (!corpus.empty()) {
        const std::string& other = corpus[random() % corpus.size()];
        *input += other.substr(other.empty() ? 0 : random() % other.size());
      }
      break;
    default:
      input->insert(at, input->substr(at, random() % 32));
  }
  if (input->size() > kMaxInputSizeBytes) input->resize(kMaxInputSizeBytes);
}

std::string MakeInput(const std::vector<std::string>& corpus, uint64_t seed, uint64_t number) {
  Random random(seed * 1'000'003 + number);
  std::string input = corpus.empty() || random() % 4 == 0 ? RandomBytes(random, random() % 128)
                                                          : corpus[random() % corpus.size()];
  for (uint64_t i = random() % 8; i > 0; --i) Mutate(corpus, random, &input);
  return input;
}

volatile uint64_t running = 0;  // The number of the input.

void TellAndDie(int signal) {
  dprintf(STDERR_FILENO, "signal %d at input %llu\n", signal,
          static_cast<unsigned long long>(running));
  _exit(1);
}

void Run(const std::string& input) {
  alarm(kTimeLimitSeconds);
  // A copy of its exact size, so that AddressSanitizer sees reads beyond it.
  const std::vector<uint8_t> copy(input.begin(), input.end());
  LLVMFuzzerTestOneInput(copy.data(), copy.size());
  alarm(0);
}

int Main(int argc, char** argv) {
  uint64_t runs = 0, seed = 1, only = UINT64_MAX;
  std::vector<std::string> paths;
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (absl::ConsumePrefix(&argument, "--runs=") ? absl::SimpleAtoi(argument, &runs)
        : absl::ConsumePrefix(&argument, "--seed=")
            ? absl::SimpleAtoi(argument, &seed)
            : absl::ConsumePrefix(&argument, "--only=") && absl::SimpleAtoi(argument, &only)) {
      continue;
    }
    paths.emplace_back(argv[i]);
  }
  const std::vector<std::string> corpus = ReadCorpus(paths);
  for (int death : {SIGABRT, SIGALRM, SIGSEGV}) signal(death, TellAndDie);
  for (const std::string& input : corpus) Run(input);
  const uint64_t first = only == UINT64_MAX ? 0 : only;
  const uint64_t last = only == UINT64_MAX ? runs : only + 1;
  for (uint64_t number = first; number < last; ++number) {
    running = number;
    Run(MakeInput(corpus, seed, number));
  }
  std::cout << "\n"
            << corpus.size() << " inputs of the corpus and " << last - first
            << " made of them: nothing found\n";
  return 0;
}

}  // namespace
}  // namespace daxkv::fuzz

int main(int argc, char** argv) { return daxkv::fuzz::Main(argc, argv); }
