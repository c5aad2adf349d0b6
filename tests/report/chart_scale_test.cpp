#include "report/chart_scale.h"

#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "core/text.h"

namespace kvsmith {
namespace {

TEST(ChartScale, TicksAreFewInsideAscendingAndTellThemselvesApart) {
  const double tiny = 1e-6, huge = 1e15;
  for (const auto unit : {AxisUnit::kPlain, AxisUnit::kBytes}) {
    for (const auto& [low, high] : std::vector<std::pair<double, double>>{{12.31, 12.35},
                                                                          {11.8, 14.1},
                                                                          {3, 500},
                                                                          {64, 4096},
                                                                          {100, 399},
                                                                          {1, huge},
                                                                          {0, huge},
                                                                          {1, 1e60},
                                                                          {1e-300, 13},
                                                                          {5, 5},
                                                                          {0, 0},
                                                                          {96, 1024},
                                                                          {1000, 1001},
                                                                          {2, 8.5},
                                                                          {0, 20e6},
                                                                          {341.5, 342},
                                                                          {12310, 12350},
                                                                          {1024, 1080}}) {
      const ChartScale scale = make_scale(low, high, unit, 300, 40, 6);
      EXPECT_GE(scale.ticks.size(), 2) << low << " to " << high;
      EXPECT_LE(scale.ticks.size(), 8) << low << " to " << high;
      for (size_t i = 0; i < scale.ticks.size(); ++i) {
        const double pixel = scale.at(scale.ticks[i].value);
        EXPECT_GE(pixel, 40 - tiny);
        EXPECT_LE(pixel, 300 + tiny);
        if (i == 0) continue;
        EXPECT_LT(scale.ticks[i - 1].value, scale.ticks[i].value);
        EXPECT_NE(scale.ticks[i - 1].label, scale.ticks[i].label) << low << " to " << high;
      }
      EXPECT_LT(scale.at(high), 300);
      EXPECT_GT(scale.at(low), 40);
    }
  }
}

TEST(ChartScale, BytesAreCountedInPowersOfTwo) {
  std::vector<std::string> labels;
  for (const auto& tick : make_scale(128, 4096, AxisUnit::kBytes, 0, 1, 8).ticks)
    labels.push_back(tick.label);
  EXPECT_EQ(join(labels), "128 B, 256 B, 512 B, 1 KiB, 2 KiB, 4 KiB");
  labels.clear();
  for (const auto& tick : make_scale(600, 1500, AxisUnit::kBytes, 0, 1, 5).ticks)
    labels.push_back(tick.label);
  EXPECT_EQ(join(labels), "768 B, 1 KiB, 1.25 KiB, 1.5 KiB");
}

TEST(ChartScale, NumbersAreShortButNotRoundedAway) {
  EXPECT_EQ(compact_bytes(1024), "1 KiB");
  EXPECT_EQ(compact_bytes(1536), "1.5 KiB");
  EXPECT_EQ(compact_bytes(100), "100 B");
  EXPECT_EQ(compact_bytes(85.25), "85.25 B");
  EXPECT_EQ(compact_count(20'000'000), "20M");
  EXPECT_EQ(compact_count(12'600'000), "12.6M");
  EXPECT_EQ(compact_count(100), "100");
}

}  // namespace
}  // namespace kvsmith
