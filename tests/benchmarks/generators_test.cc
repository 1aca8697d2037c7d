#include "benchmarks/ycsb/generators.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace daxkv::ycsb {
namespace {

TEST(RandomTest, SameSeedSameSequence) {
  Random a(5, 1), b(5, 1), other_stream(5, 2), other_seed(6, 1);
  const uint64_t first = a.Next();
  EXPECT_EQ(first, b.Next());
  EXPECT_NE(first, other_stream.Next());
  EXPECT_NE(first, other_seed.Next());
  for (int i = 0; i < 1000; ++i) {
    ASSERT_LT(a.Below(7), 7u);
    const double real = a.NextDouble();
    ASSERT_GE(real, 0);
    ASSERT_LT(real, 1);
  }
}

TEST(FnvHash64Test, FollowsTheDefinition) {
  // FNV-1a of the eight octets, lowest first, worked out apart from this code, then Java's abs.
  EXPECT_EQ(FnvHash64(0), 6284781860667377211);
  EXPECT_EQ(FnvHash64(1), 8517097267634966620);
  EXPECT_EQ(FnvHash64(2), 1820151046732198393);
  EXPECT_EQ(FnvHash64(999), 2071219101098386137);
  EXPECT_EQ(FnvHash64(1'000'000), 1011632231655643464);
  EXPECT_EQ(FnvHash64(std::numeric_limits<int64_t>::max()), 8289549613075766851);
  EXPECT_EQ(FnvHash64(-1), 8289690350564177859);
}

TEST(KeyNamerTest, NamesAsYcsbDoes) {
  KeyNamer hashed(/*hashed=*/true, 1), ordered(/*hashed=*/false, 1), padded(false, 8);
  EXPECT_EQ(hashed.Name(0), "user6284781860667377211");
  EXPECT_EQ(ordered.Name(0), "user0");
  EXPECT_EQ(ordered.Name(1234567), "user1234567");
  EXPECT_EQ(padded.Name(42), "user00000042");
  EXPECT_EQ(padded.Name(123456789), "user123456789");
  KeyNamer widest(true, KeyNamer::kMaxZeroPadding);
  EXPECT_EQ(widest.Name(1).size(), 4u + KeyNamer::kMaxZeroPadding);
  EXPECT_EQ(widest.Name(1).substr(KeyNamer::kMaxZeroPadding - 15), "8517097267634966620");
}

// The probability that Gray et al.'s formula gives a rank, by inverting it: apart from ranks 0 and
// 1 it gives rank r for u from u(r) to u(r + 1), where items * (eta * u - eta + 1)^alpha = r.
class GrayLaw {
 public:
  explicit GrayLaw(double items)
      : items_(items), zeta_(ZipfianGenerator::Zeta(0, static_cast<int64_t>(items), 0.99)) {
    eta_ = (1 - std::pow(2 / items, 0.01)) / (1 - (1 + std::pow(0.5, 0.99)) / zeta_);
  }
  double Below(double rank) const {  // The probability of all ranks below.
    if (rank <= 0) return 0;
    if (rank == 1) return 1 / zeta_;
    const double two = (1 + std::pow(0.5, 0.99)) / zeta_;
    if (rank == 2) return two;
    return std::max(two, (std::pow(rank / items_, 0.01) - 1 + eta_) / eta_);
  }
  double zeta() const { return zeta_; }

 private:
  double items_, zeta_, eta_;
};

TEST(ZipfianGeneratorTest, FollowsItsLaw) {
  constexpr int64_t kItems = 100'000;
  constexpr double kDraws = 2'000'000;
  ZipfianGenerator generator(kItems);
  Random random(11);
  // Ranks 0..19 apart, then up to each limit together.
  std::vector<double> limits;
  for (int rank = 1; rank <= 20; ++rank) limits.push_back(rank);
  for (double limit : {50., 100., 1e3, 1e4, 5e4, 1e5}) limits.push_back(limit);
  std::vector<double> counts(limits.size());
  for (int i = 0; i < kDraws; ++i) {
    const int64_t rank = generator.Next(&random);
    ASSERT_GE(rank, 0);
    ASSERT_LT(rank, kItems);
    const auto bin = std::upper_bound(limits.begin(), limits.end(), static_cast<double>(rank));
    ++counts[static_cast<size_t>(bin - limits.begin())];
  }
  const GrayLaw law(kItems);
  double chi_square = 0;
  for (size_t bin = 0; bin < limits.size(); ++bin) {
    const double expected =
        kDraws * (law.Below(limits[bin]) - law.Below(bin == 0 ? 0 : limits[bin - 1]));
    chi_square += (counts[bin] - expected) * (counts[bin] - expected) / expected;
  }
  // 25 degrees of freedom: above 52.6 in one of a thousand runs of a right generator.
  EXPECT_LT(chi_square, 52.6);

  // Zipf's own law: exact for the first two ranks, near it for the others.
  EXPECT_NEAR(counts[0] / kDraws * law.zeta(), 1, 0.01);
  EXPECT_NEAR(counts[1] / kDraws * law.zeta() * std::pow(2, 0.99), 1, 0.01);
  double cumulated = 0;
  for (size_t bin = 0; bin < limits.size(); ++bin) {
    cumulated += counts[bin] / kDraws;
    const double exact =
        ZipfianGenerator::Zeta(0, static_cast<int64_t>(limits[bin]), 0.99) / law.zeta();
    EXPECT_NEAR(cumulated / exact, 1, 0.06) << limits[bin];
  }
}

TEST(ZipfianGeneratorTest, GrowingEqualsStartingLarge) {
  ZipfianGenerator grown(1000), large(5000);
  Random random_grown(3), random_large(3);
  for (int64_t items = 1000; items < 5000; items += 7) grown.Next(&random_large, items);
  random_grown = Random(4);
  random_large = Random(4);
  for (int i = 0; i < 10'000; ++i) {
    ASSERT_EQ(grown.Next(&random_grown, 5000), large.Next(&random_large, 5000));
  }
}

TEST(ZipfianGeneratorTest, FewItems) {
  Random random(5);
  for (int64_t items : {1, 2, 3}) {
    ZipfianGenerator generator(items);
    std::map<int64_t, int> counts;
    for (int i = 0; i < 10'000; ++i) ++counts[generator.Next(&random)];
    ASSERT_EQ(counts.size(), static_cast<size_t>(items));
    EXPECT_EQ(counts.rbegin()->first, items - 1);
  }
}

TEST(ScrambledZipfianChooserTest, PopularKeysAreTheHashesOfTheFirstRanks) {
  constexpr int64_t kFirst = 100, kKeys = 1'000'000;
  constexpr int kDraws = 1'000'000;
  const std::unique_ptr<KeyChooser> chooser = ScrambledZipfianChooser(kFirst, kFirst + kKeys - 1);
  Random random(6);
  std::map<int64_t, int> counts;
  for (int i = 0; i < kDraws; ++i) {
    const int64_t key = chooser->Next(&random);
    ASSERT_GE(key, kFirst);
    ASSERT_LT(key, kFirst + kKeys);
    ++counts[key];
  }
  // Ranks 0 and 1 of ten billion, zeta 26.469: 3.78 % and half of it to the power of 0.99.
  const double zeta = 26.46902820178302;
  EXPECT_NEAR(counts[kFirst + FnvHash64(0) % kKeys], kDraws / zeta, kDraws * 0.001);
  EXPECT_NEAR(counts[kFirst + FnvHash64(1) % kKeys], kDraws / zeta / std::pow(2, 0.99),
              kDraws * 0.001);
  int most = 0;
  int64_t most_popular = 0;
  for (const auto& [key, count] : counts) {
    if (count > most) most = count, most_popular = key;
  }
  EXPECT_EQ(most_popular, kFirst + FnvHash64(0) % kKeys);
}

TEST(LatestChooserTest, FollowsTheNewestAcknowledgedKey) {
  AcknowledgedCounter counter(10'000);
  const std::unique_ptr<KeyChooser> chooser = LatestChooser(&counter);
  Random random(7);
  for (int64_t newest : {9'999, 10'000, 10'500}) {
    while (counter.last() < newest) counter.Acknowledge(counter.Next());
    int at_newest = 0;
    for (int i = 0; i < 100'000; ++i) {
      const int64_t key = chooser->Next(&random);
      ASSERT_GT(key, 0);
      ASSERT_LE(key, newest);
      at_newest += key == newest;
    }
    EXPECT_NEAR(at_newest / 1e5 * ZipfianGenerator::Zeta(0, newest, 0.99), 1, 0.05);
  }
}

TEST(ChoosersTest, UniformIsUniform) {
  const std::unique_ptr<KeyChooser> chooser = UniformChooser(50, 149);
  Random random(8);
  std::vector<double> counts(100);
  for (int i = 0; i < 1'000'000; ++i) ++counts.at(static_cast<size_t>(chooser->Next(&random) - 50));
  double chi_square = 0;
  for (double count : counts) chi_square += (count - 1e4) * (count - 1e4) / 1e4;
  EXPECT_LT(chi_square, 148.2);  // 99 degrees of freedom, one of a thousand.
}

TEST(ChoosersTest, SequentialGoesRoundOnceForAllClones) {
  const std::unique_ptr<KeyChooser> chooser = SequentialChooser(3, 5);
  const std::unique_ptr<KeyChooser> clone = chooser->Clone();
  Random random(9);
  EXPECT_EQ(chooser->Next(&random), 3);
  EXPECT_EQ(clone->Next(&random), 4);
  EXPECT_EQ(chooser->Next(&random), 5);
  EXPECT_EQ(clone->Next(&random), 3);
}

TEST(ChoosersTest, HotspotKeepsItsFractions) {
  const std::unique_ptr<KeyChooser> chooser = HotspotChooser(1000, 1999, 0.2, 0.8);
  Random random(10);
  int hot = 0;
  for (int i = 0; i < 100'000; ++i) {
    const int64_t key = chooser->Next(&random);
    ASSERT_GE(key, 1000);
    ASSERT_LE(key, 1999);
    hot += key < 1200;
  }
  EXPECT_NEAR(hot, 80'000, 1000);
  // Without hot keys, or without cold ones, the others are all there is.
  for (double fraction : {0.0, 1.0}) {
    const std::unique_ptr<KeyChooser> one_part = HotspotChooser(0, 9, fraction, 0.5);
    std::set<int64_t> keys;
    for (int i = 0; i < 1000; ++i) keys.insert(one_part->Next(&random));
    EXPECT_EQ(keys.size(), 10u);
  }
}

TEST(ChoosersTest, ExponentialKeepsItsPercentile) {
  AcknowledgedCounter counter(1'000'000);
  const std::unique_ptr<KeyChooser> chooser = ExponentialChooser(&counter, 95, 10'000);
  Random random(11);
  int newest = 0;
  for (int i = 0; i < 100'000; ++i) {
    const int64_t key = chooser->Next(&random);
    ASSERT_LE(key, 999'999);
    newest += key > 999'999 - 10'000;
  }
  EXPECT_NEAR(newest, 95'000, 500);
}

TEST(AcknowledgedCounterTest, AGapHoldsBackWhatIsBehind) {
  AcknowledgedCounter counter(10);
  EXPECT_EQ(counter.last(), 9);
  EXPECT_EQ(counter.Next(), 10);
  EXPECT_EQ(counter.Next(), 11);
  EXPECT_EQ(counter.Next(), 12);
  counter.Acknowledge(12);
  counter.Acknowledge(11);
  EXPECT_EQ(counter.last(), 9);
  counter.Acknowledge(10);
  EXPECT_EQ(counter.last(), 12);
}

TEST(AcknowledgedCounterTest, ThreadsNeverSeeAKeyBeforeItIsThere) {
  constexpr int64_t kKeys = 20'000;
  AcknowledgedCounter counter(0);
  std::vector<char> inserted(kKeys);
  const auto insert = [&] {
    for (int64_t key; (key = counter.Next()) < kKeys;) {
      inserted[static_cast<size_t>(key)] = 1;
      counter.Acknowledge(key);
    }
  };
  std::thread first(insert), second(insert);
  for (int64_t last = -1; last < kKeys - 1;) {
    last = counter.last();
    if (last < 0) continue;
    ASSERT_EQ(inserted[static_cast<size_t>(last)], 1);
  }
  first.join();
  second.join();
}

TEST(LengthGeneratorTest, KeepsToItsRange) {
  using Distribution = LengthGenerator::Distribution;
  Random random(12);
  LengthGenerator constant(Distribution::kConstant, 1, 100);
  EXPECT_EQ(constant.Next(&random), 100);
  EXPECT_TRUE(constant.is_constant());
  for (Distribution distribution : {Distribution::kUniform, Distribution::kZipfian}) {
    LengthGenerator generator(distribution, 5, 14);
    std::map<int64_t, int> counts;
    for (int i = 0; i < 10'000; ++i) ++counts[generator.Next(&random)];
    EXPECT_EQ(counts.size(), 10u);
    EXPECT_EQ(counts.begin()->first, 5);
    EXPECT_EQ(counts.rbegin()->first, 14);
    if (distribution == Distribution::kZipfian) {
      EXPECT_GT(counts[5], 3 * counts[14]);
    } else {
      EXPECT_NEAR(counts[5], 1000, 150);
    }
  }
}

}  // namespace
}  // namespace daxkv::ycsb
