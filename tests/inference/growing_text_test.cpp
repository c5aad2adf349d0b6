#include "inference/growing_text.h"

#include <gtest/gtest.h>

namespace kvsmith {
namespace {

TEST(GrowingText, HandsOnWholeCharacters) {
  GrowingText text({});
  text.append("a\xe6");
  EXPECT_EQ(text.take_fresh(false), "a");
  text.append("\xbc");
  EXPECT_EQ(text.take_fresh(false), "");
  text.append("\xa2z");
  EXPECT_EQ(text.take_fresh(false), "\u6f22z");
  text.append("\xe6");
  EXPECT_EQ(text.take_fresh(true), "\ufffd");
  EXPECT_EQ(text.text(), "a\u6f22z\ufffd");
}

TEST(GrowingText, HoldsBackWhatMayBeginAStopText) {
  GrowingText text({"END", "\n\n"});
  EXPECT_FALSE(text.append("one E"));
  EXPECT_EQ(text.take_fresh(false), "one ");
  EXPECT_FALSE(text.append("N"));
  EXPECT_EQ(text.take_fresh(false), "");
  EXPECT_FALSE(text.append("d\n"));
  EXPECT_EQ(text.take_fresh(false), "ENd");
  EXPECT_TRUE(text.append("\nmore"));
  EXPECT_EQ(text.take_fresh(true), "");
  EXPECT_EQ(text.text(), "one ENd");
}

TEST(GrowingText, EndsAtTheStopTextThatComesFirst) {
  GrowingText text({"later", "now"});
  EXPECT_TRUE(text.append("and now or later"));
  EXPECT_EQ(text.text(), "and ");
  GrowingText over_tokens({"stop"});
  EXPECT_FALSE(over_tokens.append("xst"));
  EXPECT_FALSE(over_tokens.append("o"));
  EXPECT_TRUE(over_tokens.append("p it"));
  EXPECT_EQ(over_tokens.text(), "x");
}

}  // namespace
}  // namespace kvsmith
