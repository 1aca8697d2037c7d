// Backup and Restore: what one writes the other reads, and nothing else passes for it.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kv/backup_stream.h"
#include "tests/kv/store_fixture.h"

namespace daxkv::kv {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

class StringSink : public ByteSink {
 public:
  absl::Status Append(std::string_view more) override {
    longest_append_size_bytes = std::max(longest_append_size_bytes, more.size());
    bytes.append(more);
    return absl::OkStatus();
  }
  std::string bytes;
  size_t longest_append_size_bytes = 0;
};

// Gives pieces of at most `piece_size_bytes`.
class StringSource : public ByteSource {
 public:
  explicit StringSource(std::string_view bytes, size_t piece_size_bytes = SIZE_MAX)
      : rest(bytes), piece_size_bytes_(piece_size_bytes) {}
  absl::StatusOr<size_t> Read(absl::Span<char> buffer) override {
    const size_t size = std::min({buffer.size(), rest.size(), piece_size_bytes_});
    std::copy_n(rest.begin(), size, buffer.begin());
    rest.remove_prefix(size);
    return size;
  }
  std::string_view rest;

 private:
  const size_t piece_size_bytes_;
};

class BackupTest : public StoreTest {
 protected:
  BackupTest() : restored_(path() + ".again") {}

  std::string BackupOrDie() {
    StringSink sink;
    const absl::StatusOr<BackupSummary> summary = db().Backup(&sink);
    EXPECT_THAT(summary.status(), IsOk());
    EXPECT_EQ(summary->stream_size_bytes, sink.bytes.size());
    EXPECT_LE(sink.longest_append_size_bytes, kMaxFrameSizeBytes + sizeof(BackupFrameHeader));
    return sink.bytes;
  }

  absl::StatusOr<BackupSummary> Restore(std::string_view stream) {
    StringSource source(stream);
    return Db::Restore(&source, restored_, options_, RestoreExtent::kWholeSource);
  }

  void ExpectRestored(const std::map<std::string, std::string>& model) {
    Options options = options_;
    options.create_if_missing = false;
    absl::StatusOr<std::unique_ptr<Db>> again = Db::Open(restored_, options);
    ASSERT_THAT(again.status(), IsOk());
    ExpectEqual(**again, model);
    EXPECT_THAT((*again)->Put("new", "value"), IsOk());
    EXPECT_THAT((*again)->Close(), IsOk());
    std::filesystem::remove_all(restored_);
  }

  void ExpectNothingLeft() {
    EXPECT_FALSE(std::filesystem::exists(restored_));
    EXPECT_FALSE(std::filesystem::exists(restored_ + ".restoring"));
  }

  // The stream is refused with this code, and nothing is left of it.
  void ExpectRefused(std::string_view stream, absl::StatusCode code, std::string_view message) {
    const absl::Status status = Restore(stream).status();
    EXPECT_THAT(status, HasCode(code));
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(message)));
    ExpectNothingLeft();
  }

  std::map<std::string, std::string> PutMixedSizes() {
    std::map<std::string, std::string> model;
    for (uint64_t i = 0; i < 3000; ++i) {
      const std::string key = NumberedKey(i);
      model[key] = ValueFor(key, i, i % 7 == 0 ? 0 : i % 900);
    }
    model[std::string(1, '\0')] = "least key";
    model[std::string(kMaxKeySizeBytes, '\xff')] = "longest key";
    for (uint64_t size_bytes : {1'000'000, 1'048'000, 1'048'576, 1'100'000, 5'000'000}) {
      const std::string key = absl::StrCat("large", size_bytes);
      model[key] = ValueFor(key, 1, size_bytes);
    }
    std::vector<KeyValue> records;
    for (const auto& [key, value] : model) records.push_back({key, value});
    EXPECT_THAT(db().PutGroup(records).status(), IsOk());
    return model;
  }

  const std::string restored_;
};
INSTANTIATE_ON_BOTH_MEDIA(BackupTest);

// What the medium does not matter for.
class BackupStreamTest : public BackupTest {};
INSTANTIATE_TEST_SUITE_P(Media, BackupStreamTest, testing::Values(Medium::kTmpfs), MediumName);

TEST_P(BackupTest, ComesBackAsItWas) {
  const std::map<std::string, std::string> model = PutMixedSizes();
  const std::string stream = BackupOrDie();
  const absl::StatusOr<BackupSummary> summary = Restore(stream);
  ASSERT_THAT(summary.status(), IsOk());
  EXPECT_EQ(summary->records, model.size());
  EXPECT_EQ(summary->keyspaces, 1u);
  EXPECT_EQ(summary->stream_size_bytes, stream.size());
  EXPECT_FALSE(std::filesystem::exists(restored_ + ".restoring"));
  ExpectRestored(model);
}

TEST_P(BackupTest, OfAnEmptyStore) {
  ASSERT_THAT(Restore(BackupOrDie()).status(), IsOk());
  ExpectRestored({});
}

TEST_P(BackupTest, OfAllKeyspaces) {
  ASSERT_THAT(db().Put("key", "of the default one"), IsOk());
  for (const char* name : {"b", "a", "empty", "dropped"}) {
    ASSERT_THAT(db().CreateKeyspace(name).status(), IsOk());
  }
  absl::StatusOr<Keyspace> a = db().OpenKeyspace("a"), b = db().OpenKeyspace("b");
  ASSERT_THAT(b.status(), IsOk());
  const std::string large = ValueFor("large", 1, 3'000'000);
  ASSERT_THAT(a->Put("key", "of a"), IsOk());
  ASSERT_THAT(a->Put("large", large), IsOk());
  for (uint64_t i = 0; i < 2000; ++i) ASSERT_THAT(b->Put(NumberedKey(i), "of b"), IsOk());
  ASSERT_THAT(db().DropKeyspace("dropped"), IsOk());
  const absl::StatusOr<BackupSummary> summary = Restore(BackupOrDie());
  ASSERT_THAT(summary.status(), IsOk());
  EXPECT_EQ(summary->keyspaces, 4u);
  EXPECT_EQ(summary->records, 2003u);
  absl::StatusOr<std::unique_ptr<Db>> restored = Db::Open(restored_, Options());
  ASSERT_THAT(restored.status(), IsOk());
  const absl::StatusOr<std::vector<std::string>> names = (*restored)->ListKeyspaces();
  ASSERT_THAT(names.status(), IsOk());
  EXPECT_THAT(*names, testing::ElementsAre("a", "b", "empty"));
  EXPECT_EQ((*restored)->Get("key").value(), "of the default one");
  a = (*restored)->OpenKeyspace("a");
  b = (*restored)->OpenKeyspace("b");
  EXPECT_EQ(a->Get("key").value(), "of a");
  EXPECT_EQ(a->Get("large").value(), large);
  for (uint64_t i = 0; i < 2000; ++i) ASSERT_EQ(b->Get(NumberedKey(i)).value(), "of b");
  EXPECT_THAT(b->Get("key").status(), HasCode(absl::StatusCode::kNotFound));
  EXPECT_THAT((*restored)->Check()->faults, testing::IsEmpty());
}

TEST_P(BackupTest, IntoAFixedPool) {
  const std::map<std::string, std::string> model = PutMixedSizes();
  const std::string stream = BackupOrDie();
  options_.shape = dax::PoolShape::kFixed;
  options_.fixed_size_bytes = 64 << 20;
  ASSERT_THAT(Restore(stream).status(), IsOk());
  ASSERT_TRUE(std::filesystem::is_regular_file(restored_));
  ExpectRestored(model);
  std::filesystem::remove(restored_ + ".lock");
  // Room for the small records, and not for the large ones.
  options_.fixed_size_bytes = 17 << 20;
  const absl::Status full = Restore(stream).status();
  EXPECT_THAT(full, HasCode(absl::StatusCode::kResourceExhausted));
  ExpectNothingLeft();
}

TEST_P(BackupStreamTest, ReadsInPiecesOfAnySize) {
  const std::map<std::string, std::string> model = PutMixedSizes();
  const std::string stream = BackupOrDie();
  StringSource source(stream, 777);
  ASSERT_THAT(Db::Restore(&source, restored_, options_).status(), IsOk());
  ExpectRestored(model);
}

// The sink itself changes the store at each piece that it gets.
TEST_P(BackupTest, ShowsOneMomentWhateverIsWrittenMeanwhile) {
  class ChangingSink : public StringSink {
   public:
    explicit ChangingSink(Db* db) : db_(db) {}
    absl::Status Append(std::string_view more) override {
      for (int n = 0; n < 12; ++n) {
        const uint64_t i = 61 * ++count_ % 3000;
        const std::string key = NumberedKey(i);
        absl::Status status = i % 2 == 0 ? db_->Delete(key) : db_->Put(key, "changed");
        if (status.ok()) status = db_->Put(absl::StrCat("late", count_), "late");
        if (!status.ok() && !absl::IsNotFound(status)) return status;
      }
      return StringSink::Append(more);
    }

   private:
    Db* const db_;
    uint64_t count_ = 0;
  };
  const std::map<std::string, std::string> model = PutMixedSizes();
  ChangingSink sink(&db());
  ASSERT_THAT(db().Backup(&sink).status(), IsOk());
  ASSERT_THAT(Restore(sink.bytes).status(), IsOk());
  ExpectRestored(model);
}

// Batches move an amount between two accounts; each backup must find the sum.
TEST_P(BackupTest, SeesBatchesWhole) {
  constexpr uint64_t kSum = 1000;
  WriteBatch first;
  ASSERT_THAT(first.Put("a", absl::StrCat(kSum)), IsOk());
  ASSERT_THAT(first.Put("z", "0"), IsOk());
  ASSERT_THAT(db().Write(first), IsOk());
  std::atomic<bool> done{false};
  std::thread writer([&] {
    for (uint64_t i = 0; !done; i = (i + 1) % kSum) {
      WriteBatch batch;
      EXPECT_THAT(batch.Put("a", absl::StrCat(kSum - i)), IsOk());
      EXPECT_THAT(batch.Put("z", absl::StrCat(i)), IsOk());
      EXPECT_THAT(db().Write(batch), IsOk());
    }
  });
  for (int round = 0; round < 20; ++round) {
    const std::string stream = BackupOrDie();
    StringSource source(stream);
    BackupReader reader(&source);
    ASSERT_THAT(reader.ReadHeader().status(), IsOk());
    BackupReader::Frame frame;
    ASSERT_THAT(reader.ReadFrame(&frame), IsOk());
    ASSERT_THAT(reader.ReadFrame(&frame), IsOk());
    // Sizes are one byte each here: size, size, "a", digits; size, size, "z", digits.
    const size_t digits = static_cast<size_t>(frame.payload.at(1));
    EXPECT_EQ(std::stoull(frame.payload.substr(3, digits)) +
                  std::stoull(frame.payload.substr(3 + digits + 3)),
              kSum);
  }
  done = true;
  writer.join();
}

TEST_P(BackupStreamTest, RefusesEveryCutOfTheStream) {
  ASSERT_THAT(db().Put("planet", "Saturn"), IsOk());
  ASSERT_THAT(db().Put("star", "Vega"), IsOk());
  const std::string stream = BackupOrDie();
  for (size_t size = 0; size < stream.size(); ++size) {
    SCOPED_TRACE(size);
    ExpectRefused(stream.substr(0, size), absl::StatusCode::kDataLoss, "cut short");
  }
  ExpectRefused(stream + "x", absl::StatusCode::kDataLoss,
                absl::StrCat("at byte ", stream.size(), ": something follows"));
  // Whoever has more behind it may say so, and finds it still there.
  const std::string longer = stream + "more";
  StringSource source(longer);
  ASSERT_THAT(Db::Restore(&source, restored_, options_).status(), IsOk());
  EXPECT_EQ(source.rest, "more");
  ExpectRestored({{"planet", "Saturn"}, {"star", "Vega"}});
}

TEST_P(BackupStreamTest, RefusesEveryDamagedByte) {
  ASSERT_THAT(db().Put("planet", "Saturn"), IsOk());
  std::string stream = BackupOrDie();
  for (size_t i = 0; i < stream.size(); ++i) {
    SCOPED_TRACE(i);
    stream[i] = static_cast<char>(stream[i] ^ (1 << (i % 8)));
    const absl::Status status = Restore(stream).status();
    EXPECT_TRUE(absl::IsDataLoss(status) || (i / 4 == 2 && absl::IsFailedPrecondition(status)))
        << status;
    EXPECT_THAT(std::string(status.message()), AnyOf(HasSubstr("byte "), HasSubstr("version")));
    ExpectNothingLeft();
    stream[i] = static_cast<char>(stream[i] ^ (1 << (i % 8)));
  }
}

TEST_P(BackupStreamTest, RefusesFramesOutOfPlace) {
  for (uint64_t i = 0; i < 4000; ++i) {
    ASSERT_THAT(db().Put(NumberedKey(i), ValueFor("k", i, 700)), IsOk());
  }
  const std::string stream = BackupOrDie();
  std::vector<std::string> frames;
  for (size_t at = sizeof(BackupHeader); at < stream.size();) {
    BackupFrameHeader header;
    memcpy(&header, &stream[at], sizeof(header));
    frames.push_back(stream.substr(at, sizeof(header) + header.payload_size_bytes));
    at += frames.back().size();
  }
  ASSERT_GE(frames.size(), 5u);  // Keyspace, records, records, records, end.
  const auto joined = [&](const std::vector<size_t>& order) {
    std::string result = stream.substr(0, sizeof(BackupHeader));
    for (size_t i : order) result += frames[i];
    return result;
  };
  const size_t last = frames.size() - 1;
  ASSERT_EQ(last, 4u);
  const auto data_loss = absl::StatusCode::kDataLoss;
  ExpectRefused(joined({0, 2, 1, 3, 4}), data_loss, "frame 2 where frame 1 is expected");
  ExpectRefused(joined({0, 1, 1, 2, 3, 4}), data_loss, "frame 1 where frame 2 is expected");
  ExpectRefused(joined({0, 1, 3, 4}), data_loss, "frame 3 where frame 2 is expected");
  ExpectRefused(joined({0, 4}), data_loss, "frame 4 where frame 1");
  // A frame of another backup of the same store, at the same place.
  ASSERT_THAT(db().Put(NumberedKey(0), ValueFor("k", 7777, 700)), IsOk());
  const std::string other = BackupOrDie();
  ASSERT_EQ(other.size(), stream.size());
  const size_t first_size_bytes = sizeof(BackupHeader) + frames[0].size() + frames[1].size();
  ExpectRefused(other.substr(0, first_size_bytes) + stream.substr(first_size_bytes), data_loss,
                "hash");
}

// A stream whose frames are all intact, and which was never written by Backup.
TEST_P(BackupStreamTest, RefusesWhatNoBackupSays) {
  const auto stream = [](const std::function<void(BackupWriter&)>& fill) {
    StringSink sink;
    BackupWriter writer(&sink);
    EXPECT_THAT(writer.Begin(1, 2), IsOk());
    fill(writer);
    EXPECT_THAT(writer.End(), IsOk());
    return sink.bytes;
  };
  const auto add = [](BackupWriter& writer, std::string_view key, std::string_view value) {
    EXPECT_THAT(writer.AddRecord(key, value), IsOk());
  };
  const std::string large(2 << 20, 'l');
  const auto data_loss = absl::StatusCode::kDataLoss;
  ExpectRefused(stream([&](BackupWriter& writer) { add(writer, "a", "b"); }), data_loss,
                "at byte 48: it does not begin with a keyspace");
  const auto in_keyspace = [&](const std::function<void(BackupWriter&)>& fill) {
    return stream([&](BackupWriter& writer) {
      EXPECT_THAT(writer.BeginKeyspace(""), IsOk());
      fill(writer);
    });
  };
  ExpectRefused(in_keyspace([&](BackupWriter& writer) {
                  add(writer, "b", "1");
                  add(writer, "a", "2");
                }),
                data_loss, "out of order");
  ExpectRefused(in_keyspace([&](BackupWriter& writer) {
                  add(writer, "a", "1");
                  add(writer, "a", "2");
                }),
                data_loss, "out of order");
  ExpectRefused(in_keyspace([&](BackupWriter& writer) {
                  add(writer, "b", large);
                  add(writer, "a", large);
                }),
                data_loss, "out of order");
  ExpectRefused(in_keyspace([&](BackupWriter& writer) { add(writer, "", "1"); }), data_loss,
                "a key of 0 bytes");
  ExpectRefused(in_keyspace([&](BackupWriter& writer) {
                  add(writer, std::string(kMaxKeySizeBytes + 1, 'k'), "1");
                }),
                data_loss, "a key of 65537 bytes");
  ExpectRefused(
      in_keyspace([&](BackupWriter& writer) { EXPECT_THAT(writer.BeginKeyspace(""), IsOk()); }),
      data_loss, "the default keyspace is not the first");
}

TEST_P(BackupStreamTest, TellsOfANewerFormat) {
  std::string stream = BackupOrDie();
  stream[8] = 9;
  ExpectRefused(stream, absl::StatusCode::kFailedPrecondition, "format version 9");
  ExpectRefused("certainly no backup, whatever it is", absl::StatusCode::kDataLoss,
                "does not begin as a backup");
}

TEST_P(BackupTest, ReplacesNothing) {
  ASSERT_THAT(db().Put("planet", "Saturn"), IsOk());
  const std::string stream = BackupOrDie();
  ASSERT_THAT(Restore(stream).status(), IsOk());
  EXPECT_THAT(Restore(stream).status(), HasCode(absl::StatusCode::kAlreadyExists));
  ExpectRestored({{"planet", "Saturn"}});
  std::filesystem::create_directory(restored_);
  EXPECT_THAT(Restore(stream).status(), HasCode(absl::StatusCode::kAlreadyExists));
  EXPECT_TRUE(std::filesystem::is_empty(restored_));
  std::filesystem::remove(restored_);
  EXPECT_THAT(Restore(stream.substr(1)).status(), HasCode(absl::StatusCode::kDataLoss));
  ExpectNothingLeft();
}

TEST_P(BackupTest, ClearsWhatAKilledRestoreLeft) {
  ASSERT_THAT(db().Put("planet", "Saturn"), IsOk());
  const std::string stream = BackupOrDie();
  const std::string staging = restored_ + ".restoring";
  std::filesystem::create_directories(staging + "/store/parts");
  std::ofstream(staging + "/store/parts/000000.pmem") << "half";
  ASSERT_THAT(Restore(stream).status(), IsOk());
  EXPECT_FALSE(std::filesystem::exists(staging));
  ExpectRestored({{"planet", "Saturn"}});

  // Nobody's files are removed but its own.
  std::filesystem::create_directories(staging);
  std::ofstream(staging + "/diary") << "mine";
  EXPECT_THAT(Restore(stream).status(), HasCode(absl::StatusCode::kFailedPrecondition));
  EXPECT_TRUE(std::filesystem::exists(staging + "/diary"));
  EXPECT_FALSE(std::filesystem::exists(restored_));
}

TEST_P(BackupTest, RefusesASecondRestoreToTheSamePath) {
  class NestedSource : public StringSource {
   public:
    NestedSource(std::string_view bytes, std::function<void()> meanwhile)
        : StringSource(bytes), meanwhile_(std::move(meanwhile)) {}
    absl::StatusOr<size_t> Read(absl::Span<char> buffer) override {
      if (meanwhile_ != nullptr) std::exchange(meanwhile_, nullptr)();
      return StringSource::Read(buffer);
    }

   private:
    std::function<void()> meanwhile_;
  };
  ASSERT_THAT(db().Put("planet", "Saturn"), IsOk());
  const std::string stream = BackupOrDie();
  absl::Status second;
  NestedSource source(stream, [&] { second = Restore(stream).status(); });
  EXPECT_THAT(Db::Restore(&source, restored_, options_).status(), IsOk());
  EXPECT_THAT(second, HasCode(absl::StatusCode::kFailedPrecondition));
  ExpectRestored({{"planet", "Saturn"}});
}

TEST_P(BackupStreamTest, EndsWithTheStatusOfSinkOrSource) {
  class FullSink : public StringSink {
   public:
    absl::Status Append(std::string_view more) override {
      if (bytes.size() > 3'000'000) return absl::ResourceExhaustedError("the tape is full");
      return StringSink::Append(more);
    }
  };
  class BrokenSource : public StringSource {
   public:
    using StringSource::StringSource;
    absl::StatusOr<size_t> Read(absl::Span<char> buffer) override {
      if (rest.size() < 1'000'000) return absl::UnavailableError("the tape is torn");
      return StringSource::Read(buffer);
    }
  };
  PutMixedSizes();
  FullSink sink;
  EXPECT_THAT(db().Backup(&sink).status(), HasCode(absl::StatusCode::kResourceExhausted));
  const std::string stream = BackupOrDie();
  BrokenSource source(stream);
  EXPECT_THAT(Db::Restore(&source, restored_, options_).status(),
              HasCode(absl::StatusCode::kUnavailable));
  ExpectNothingLeft();
}

TEST_P(BackupTest, ThroughFilesAndStreams) {
  const std::map<std::string, std::string> model = PutMixedSizes();
  const std::string file = restored_ + ".backup";
  ASSERT_THAT(BackupToFile(db(), file).status(), IsOk());
  EXPECT_FALSE(std::filesystem::exists(file + ".partial"));
  ASSERT_THAT(RestoreFromFile(file, restored_, options_).status(), IsOk());
  ExpectRestored(model);

  std::stringstream stream;
  OstreamSink sink(&stream);
  ASSERT_THAT(db().Backup(&sink).status(), IsOk());
  IstreamSource source(&stream);
  ASSERT_THAT(Db::Restore(&source, restored_, options_, RestoreExtent::kWholeSource).status(),
              IsOk());
  ExpectRestored(model);

  std::filesystem::resize_file(file, std::filesystem::file_size(file) - 1);
  EXPECT_THAT(RestoreFromFile(file, restored_, options_).status(),
              HasCode(absl::StatusCode::kDataLoss));
  EXPECT_THAT(RestoreFromFile(file + ".none", restored_, options_).status(),
              HasCode(absl::StatusCode::kUnavailable));
  EXPECT_THAT(BackupToFile(db(), "/no/such/directory/file").status(),
              HasCode(absl::StatusCode::kUnavailable));
  ExpectNothingLeft();
  // A device without room: the backup before stays.
  if (access("/dev/full", W_OK) == 0) {
    std::ofstream full("/dev/full", std::ios::binary);
    OstreamSink full_sink(&full);
    EXPECT_THAT(db().Backup(&full_sink).status(), HasCode(absl::StatusCode::kUnavailable));
  }
}

TEST_P(BackupStreamTest, OfAClosedStore) {
  ASSERT_THAT(db().Close(), IsOk());
  StringSink sink;
  EXPECT_THAT(db().Backup(&sink).status(), HasCode(absl::StatusCode::kFailedPrecondition));
  Crash();
  Open();
}

}  // namespace
}  // namespace daxkv::kv
