#include "core/text.h"

#include <utility>

#include <gtest/gtest.h>

namespace kvsmith {
namespace {

TEST(Text, NearestPrefersBeginningsAndThenIsStrict) {
  const std::vector<std::string> known = {
      "train", "tokenizer", "--output", "--valid", "--valid-fraction", "evaluate", "kv"};
  for (const auto& [wanted, found] :
       std::vector<std::pair<std::string, std::string>>{{"trian", "train"},
                                                        {"t", "train"},
                                                        {"to", "tokenizer"},
                                                        {"training", "train"},
                                                        {"evaluation", "evaluate"},
                                                        {"--outptu", "--output"},
                                                        {"--val", "--valid"},
                                                        {"--valid-f", "--valid-fraction"},
                                                        {"kw", "kv"},
                                                        {"xy", ""},
                                                        {"rain-dance", ""},
                                                        {"--quiet", ""},
                                                        {"", ""}}) {
    EXPECT_EQ(nearest(wanted, known), found) << wanted;
  }
  EXPECT_EQ(suggestion("trian", known), "did you mean \"train\"?");
  EXPECT_EQ(suggestion("xy", {"a", "b"}), "valid: a, b");
}

TEST(Text, FiguresForPeopleCarryTheirUnit) {
  EXPECT_EQ(human_flop(59.7e9), "59.7 GFLOP");
  EXPECT_EQ(human_flop(12), "12 FLOP");
  EXPECT_EQ(human_bytes(1536), "1.50 KiB");
  EXPECT_EQ(human_count(12.6e6), "12.6M");
}

}  // namespace
}  // namespace kvsmith
