#include "data/ordered_pipeline.h"

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace kvsmith {
namespace {

struct Job {
  int number = 0, square = 0;
};

/// Runs 0..count-1 through the pipeline; a step throws at the numbers given.
std::vector<int> run(int threads,
                     size_t depth,
                     int count,
                     int bad_produce = -1,
                     int bad_work = -1,
                     int bad_consume = -1) {
  std::atomic<int> next = 0;
  std::vector<int> out;
  const auto fail_at = [](int number, int bad) {
    if (number == bad) throw std::runtime_error(std::to_string(number));
  };
  run_in_order<Job>(
      threads, depth,
      [&](Job& job) {
        if (next == count) return false;
        job.number = next++;
        fail_at(job.number, bad_produce);
        return true;
      },
      [&](Job& job) {
        std::this_thread::sleep_for(std::chrono::microseconds(job.number * 7919 % 300));
        fail_at(job.number, bad_work);
        job.square = job.number * job.number;
      },
      [&](Job& job) {
        fail_at(job.number, bad_consume);
        out.push_back(job.square);
      });
  return out;
}

TEST(OrderedPipeline, GivesResultsInOrderForAnyThreadsAndDepth) {
  for (const int threads : {1, 2, 7})
    for (const size_t depth : {size_t{1}, size_t{2}, size_t{16}})
      for (const int count : {0, 1, 100}) {
        std::vector<int> expected;
        for (int i = 0; i < count; ++i) expected.push_back(i * i);
        EXPECT_EQ(run(threads, depth, count), expected) << threads << " threads, depth " << depth;
      }
}

TEST(OrderedPipeline, TheEarliestErrorEndsItAndIsThrown) {
  const auto error_of = [](auto... bad) -> std::string {
    try {
      run(4, 8, 100, bad...);
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "none";
  };
  for (int round = 0; round < 20; ++round) {
    EXPECT_EQ(error_of(40), "40");
    EXPECT_EQ(error_of(-1, 30), "30");
    EXPECT_EQ(error_of(-1, -1, 20), "20");
    EXPECT_EQ(error_of(12, 11), "11");
    EXPECT_EQ(error_of(10, 11), "10");
    EXPECT_EQ(error_of(0), "0");
  }
}

}  // namespace
}  // namespace kvsmith
