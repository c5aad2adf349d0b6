#include "data/byte_bpe.h"

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "data/byte_level.h"

namespace kvsmith {
namespace {

using Merges = std::vector<ByteBpe::Merge>;

std::array<int32_t, 256> own_ids() {
  std::array<int32_t, 256> ids;
  for (int32_t i = 0; i < 256; ++i) ids[i] = i;
  return ids;
}

/// The definition: merge the leftmost of the pairs of the lowest rank until none is left.
std::vector<int32_t> merged_naively(const std::string& word, const Merges& merges) {
  std::vector<int32_t> ids;
  for (const char c : word) ids.push_back(static_cast<unsigned char>(c));
  for (size_t rank = 0; rank < merges.size();) {
    size_t at = 0;
    while (at + 1 < ids.size() &&
           (ids[at] != merges[rank].left || ids[at + 1] != merges[rank].right))
      ++at;
    if (at + 1 >= ids.size()) {
      ++rank;
      continue;
    }
    ids[at] = merges[rank].result;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(at) + 1);
    rank = 0;
  }
  return ids;
}

TEST(ByteBpe, GivesWhatTheDefinitionGivesForShortAndLongWords) {
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    // Strings over {a, b, c} that can be made in many ways; a rank may well be above its parts'.
    std::vector<std::string> texts{"a", "b", "c"};
    std::map<std::string, int32_t> ids{{"a", 'a'}, {"b", 'b'}, {"c", 'c'}};
    std::map<std::pair<int32_t, int32_t>, bool> seen;
    Merges merges;
    for (int i = 0; i < 40; ++i) {
      const std::string left = texts[random() % texts.size()],
                        right = texts[random() % texts.size()];
      if (left.size() + right.size() > 8) continue;
      if (std::exchange(seen[{ids[left], ids[right]}], true)) continue;
      const std::string whole = left + right;
      if (ids.emplace(whole, 256 + static_cast<int32_t>(ids.size())).second) texts.push_back(whole);
      merges.push_back({ids[left], ids[right], ids[whole]});
    }
    if (round % 2 == 1) std::shuffle(merges.begin(), merges.end(), random);
    const ByteBpe bpe(own_ids(), merges, {});
    ByteBpe::Workspace work;
    for (int i = 0; i < 40; ++i) {
      std::string word;
      for (size_t n = 1 + random() % 120; n > 0; --n) word += static_cast<char>('a' + random() % 3);
      std::vector<int32_t> got;
      bpe.encode(word, work, got);
      ASSERT_EQ(got, merged_naively(word, merges)) << word;
    }
  }
}

TEST(ByteBpe, LeavesOutBytesWithoutAToken) {
  auto ids = own_ids();
  ids['x'] = -1;
  const Merges merges{{'a', 'b', 256}};
  const ByteBpe bpe(ids, merges, {});
  ByteBpe::Workspace work;
  std::vector<int32_t> got;
  for (const size_t repeats : {1, 40}) {
    for (size_t i = 0; i < repeats; ++i) bpe.encode("axbx", work, got);
    bpe.encode(std::string(60, 'x'), work, got);
    bpe.encode("x", work, got);
  }
  EXPECT_EQ(got, std::vector<int32_t>(41, 256));
}

TEST(ByteBpe, TakesKnownWordsWithoutMerging) {
  const Merges merges{{'a', 'b', 256}};
  const ByteBpe bpe(own_ids(), merges, {{"abc", 300}});
  ByteBpe::Workspace work;
  std::vector<int32_t> got;
  bpe.encode("abc", work, got);
  bpe.encode("abca", work, got);
  EXPECT_EQ(got, (std::vector<int32_t>{300, 256, 'c', 'a'}));
}

TEST(ByteBpe, LongWordsTakeLittleMoreThanLinearTime) {
  Merges merges{{'a', 'a', 256}};
  for (int32_t id = 257; id < 270; ++id) merges.push_back({id - 1, id - 1, id});
  const ByteBpe bpe(own_ids(), merges, {});
  ByteBpe::Workspace work;
  std::vector<int32_t> got;
  bpe.encode(std::string(1 << 20, 'a'), work, got);  // quadratic time would be hours
  EXPECT_EQ(got, std::vector<int32_t>(64, 269));
}

TEST(ByteLevel, HasASymbolForEveryByteAndBack) {
  EXPECT_EQ(byte_level_symbol(' '), "Ġ");
  EXPECT_EQ(byte_level_symbol('\n'), "Ċ");
  EXPECT_EQ(byte_level_symbol('a'), "a");
  EXPECT_EQ(byte_level_symbol(0xAD), "Ń") << "the last of the 68";
  for (int byte = 0; byte < 256; ++byte)
    EXPECT_EQ(from_byte_level(byte_level_symbol(static_cast<unsigned char>(byte))),
              std::string(1, static_cast<char>(byte)));
  EXPECT_EQ(from_byte_level("Ġthe"), " the");
  EXPECT_EQ(from_byte_level("日"), std::nullopt);
  EXPECT_EQ(from_byte_level(" "), std::nullopt);
}

}  // namespace
}  // namespace kvsmith
