#include "report/label_placement.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace kvsmith {
namespace {

TEST(LabelPlacement, LabelsCoverNoMarkAndNoOtherLabel) {
  std::mt19937 random(7);
  std::uniform_real_distribution<double> x(40, 700), y(40, 360), width(20, 120);
  const Box area{0, 0, 760, 400};
  std::vector<Labelled> spread, heap(12, {200, 200, 60});
  for (int i = 0; i < 25; ++i) spread.push_back({x(random), y(random), width(random)});
  for (const auto& marks : {spread, heap}) {
    std::vector<Box> boxes;
    const auto places = place_labels(marks, area, {});
    ASSERT_EQ(places.size(), marks.size());
    for (size_t i = 0; i < marks.size(); ++i) {
      ASSERT_TRUE(places[i]) << i;
      const std::string anchor = places[i]->anchor;
      const double share = anchor == "start" ? 0 : anchor == "end" ? 1 : 0.5;
      const double left = places[i]->x - share * marks[i].width;
      const Box box{left, places[i]->y - 7, left + marks[i].width, places[i]->y + 7};
      EXPECT_GE(box.left, area.left);
      EXPECT_LE(box.right, area.right);
      for (const Box& other : boxes) EXPECT_FALSE(overlap(box, other)) << i;
      for (const auto& mark : marks) {
        EXPECT_FALSE(overlap(box, {mark.x - 5, mark.y - 5, mark.x + 5, mark.y + 5})) << i;
      }
      boxes.push_back(box);
    }
  }
}

TEST(LabelPlacement, GivesUpWhereThereIsNoRoom) {
  const auto places = place_labels({{50, 50, 500}}, {0, 0, 100, 100}, {});
  EXPECT_FALSE(places[0]);
}

TEST(LabelPlacement, SpreadLabelsStayInOrderApartAndInside) {
  const std::vector<double> wanted = {50, 10, 50, 51, 195, 199, 10};
  const auto y = spread_labels(wanted, 16, 10, 200);
  std::vector<double> sorted = y;
  std::ranges::sort(sorted);
  EXPECT_GE(sorted.front(), 10);
  EXPECT_LE(sorted.back(), 200);
  for (size_t i = 1; i < sorted.size(); ++i) EXPECT_GE(sorted[i] - sorted[i - 1], 16 - 1e-9);
  EXPECT_LT(y[1], y[0]);
  EXPECT_LT(y[0], y[3]);
  EXPECT_LT(y[4], y[5]);
}

TEST(LabelPlacement, ShortenCutsBetweenCharacters) {
  EXPECT_EQ(shorten("äöüß", 4), "äöüß");
  EXPECT_EQ(shorten("äöüßx", 4), "äöü…");
  EXPECT_EQ(shorten("", 4), "");
}

}  // namespace
}  // namespace kvsmith
