#include "serve/fair_queue.h"

#include <vector>

#include <gtest/gtest.h>

namespace kvsmith {
namespace {

std::vector<int> taken(FairQueue<int>& queue) {
  std::vector<int> out;
  while (!queue.empty()) out.push_back(queue.take());
  return out;
}

TEST(FairQueue, ClientsTakeTurnsAndEachIsServedInItsOrder) {
  FairQueue<int> queue;
  for (const int item : {1, 2, 3, 4}) queue.push("many", item);
  queue.push("one", 10);
  for (const int item : {20, 21}) queue.push("two", item);
  EXPECT_EQ(queue.size(), 7);
  EXPECT_EQ(queue.size_of("many"), 4);
  EXPECT_EQ(taken(queue), (std::vector{1, 10, 20, 2, 21, 3, 4}));
}

TEST(FairQueue, WhoComesLaterDoesNotTakeTheNextTurn) {
  FairQueue<int> queue;
  queue.push("a", 1);
  EXPECT_EQ(queue.front(), 1);
  queue.push("b", 2);
  EXPECT_EQ(queue.front(), 1);
  EXPECT_EQ(queue.take(), 1);
  queue.push("a", 3);  // behind b again
  EXPECT_EQ(taken(queue), (std::vector{2, 3}));
}

TEST(FairQueue, TheNewestOfTheLongestLineMakesRoom) {
  FairQueue<int> queue;
  queue.push("one", 10);
  for (const int item : {1, 2, 3}) queue.push("many", item);
  EXPECT_EQ(queue.longest(), 3);
  EXPECT_EQ(queue.take_newest_of_longest(), 3);
  queue.erase_if([](int item) { return item == 10; });
  EXPECT_EQ(queue.size_of("one"), 0);
  EXPECT_EQ(taken(queue), (std::vector{1, 2}));
}

}  // namespace
}  // namespace kvsmith
