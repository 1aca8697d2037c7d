// The search of an inner view against the plain definition.
#include "kv/inner_view.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <string>
#include <vector>

namespace daxkv::kv {
namespace {

using Child = InnerView::Child;

unsigned PlainSearch(const std::vector<Child>& children, std::string_view key) {
  unsigned found = 0;
  for (unsigned i = 1; i < children.size(); ++i) {
    if (children[i].separator <= key) found = i;
  }
  return found;
}

std::string RandomKey(std::mt19937& random, std::string_view prefix, unsigned alphabet) {
  std::string key(
      prefix.substr(0, random() % 8 == 0 ? random() % (prefix.size() + 1) : prefix.size()));
  for (unsigned n = random() % 14; n > 0; --n) {
    const unsigned c = random() % alphabet;
    key.push_back(static_cast<char>(c == 0 ? 0 : c == 1 ? 0xff : 'a' + c));
  }
  return key;
}

// Keys of which many or few begin alike, and a node's children between them.
struct RandomNode {
  RandomNode(std::mt19937& random, int round)
      : prefix(round % 3 == 0   ? ""
               : round % 3 == 1 ? "user"
                                : "long/prefix/of/all"),
        alphabet(round % 2 == 0 ? 2 : 20) {
    const unsigned wanted = 1 + random() % 249;
    for (unsigned i = 0; i < 2 * wanted && separators.size() < wanted; ++i) {
      separators.insert(RandomKey(random, prefix, alphabet));
    }
    for (const std::string& separator : separators) {
      Child child;
      child.separator = separator;
      child.address = (children.size() + 1) * 1024;
      child.split_count = static_cast<uint32_t>(children.size() * 2);
      children.push_back(child);
    }
  }

  void ExpectIn(const InnerView& view, std::mt19937& random) const {
    ASSERT_EQ(view.size(), children.size());
    for (unsigned i = 0; i < view.size(); ++i) {
      EXPECT_EQ(view.separator(i), children[i].separator);
      EXPECT_EQ(view.leaf(i), children[i].address);
      EXPECT_EQ(view.split_count(i), children[i].split_count);
      EXPECT_EQ(view.Search(children[i].separator), i);
    }
    for (int i = 0; i < 300; ++i) {
      const std::string key = RandomKey(random, prefix, alphabet);
      ASSERT_EQ(view.Search(key), PlainSearch(children, key)) << key;
    }
    EXPECT_EQ(view.Search(""), 0u);
  }

  std::string prefix;
  unsigned alphabet;
  std::set<std::string> separators;
  std::vector<Child> children;
};

TEST(InnerViewTest, SearchAgreesWithItsDefinition) {
  std::mt19937 random(1);
  for (int round = 0; round < 600; ++round) {
    const RandomNode node(random, round);
    const auto made = InnerView::Make(node.children, InnerView::Right());
    const InnerView& view = *made;
    node.ExpectIn(view, random);
    const std::vector<Child> again = view.Children(/*level=*/1);
    ASSERT_EQ(again.size(), node.children.size());
    EXPECT_EQ(again.back().separator, node.children.back().separator);
    EXPECT_EQ(again.back().address, node.children.back().address);
  }
}

TEST(InnerViewTest, AViewThatGainsAChildIsAsIfMadeWithIt) {
  std::mt19937 random(1);
  InnerFrame right(4096, 1);
  unsigned gained = 0;
  for (int round = 0; round < 600; ++round) {
    const RandomNode node(random, round);
    if (node.children.size() < 2) continue;
    const unsigned place = 1 + random() % (node.children.size() - 1);
    std::vector<Child> others = node.children;
    others[place - 1].split_count = InnerView::kUnknownSplitCount;
    others.erase(others.begin() + place);
    const auto before = InnerView::Make(others, {&right, "\xff\xff"});
    const Child& added = node.children[place];
    if (!before->MayGain(added.separator)) continue;
    ++gained;
    const auto made = before->With(place - 1, node.children[place - 1].split_count, added);
    const InnerView& view = *made;
    node.ExpectIn(view, random);
    EXPECT_EQ(view.right(), &right);
    EXPECT_EQ(view.right_fence(), before->right_fence());
    EXPECT_EQ(view.size_bytes(),
              InnerView::Make(node.children, {&right, "\xff\xff"})->size_bytes());
  }
  EXPECT_GT(gained, 300u);
}

TEST(InnerViewTest, CoversUpToTheRightFence) {
  InnerFrame right(4096, 1);
  std::vector<Child> children(1);
  children[0].address = 1024;
  const auto edge = InnerView::Make(children, InnerView::Right());
  EXPECT_TRUE(edge->Covers("\xff\xff\xff"));
  const auto view = InnerView::Make(children, {&right, "m"});
  EXPECT_TRUE(view->Covers(""));
  EXPECT_TRUE(view->Covers("lzzz"));
  EXPECT_FALSE(view->Covers("m"));
  EXPECT_FALSE(view->Covers("ma"));
  EXPECT_EQ(view->right(), &right);
}

}  // namespace
}  // namespace daxkv::kv
