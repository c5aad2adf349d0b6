#include "evaluate/decode_speed.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "cache/cache_options.h"
#include "tests/support/layer_cases.h"

namespace kvsmith {
namespace {

/// How long anything takes is not asserted: only what was in the cache meanwhile.
class DecodeSpeedOf : public ::testing::TestWithParam<std::string> {
 protected:
  CachePlan plan() const {
    std::istringstream in(GetParam());
    const std::vector<std::string> words{std::istream_iterator<std::string>(in), {}};
    return {cache_config_of(words), model_->config(), at::kFloat, kContext};
  }
  static constexpr int64_t kContext = 40;
  Decoder model_ = [] {
    Decoder model(tiny_model());
    initialize(*model, 1);
    return model;
  }();
};

INSTANTIATE_TEST_SUITE_P(Methods,
                         DecodeSpeedOf,
                         ::testing::Values("full",
                                           "int4",
                                           "keyformer budget_tokens=20",
                                           "h2o budget_tokens=20 int8",
                                           "snapkv budget_tokens=37"));

TEST_P(DecodeSpeedOf, IsMeasuredBehindTheWholeContext) {
  constexpr int64_t kNew = 5, kWarmUp = 2;
  const auto plan = this->plan();
  const auto speed = decode_speed(*model_, plan, {.context = kContext, .tokens = kNew, .batch = 3});
  EXPECT_EQ(speed.seconds.size(), 5U);
  EXPECT_TRUE(std::ranges::is_sorted(speed.seconds));
  EXPECT_GT(speed.tokens_per_second(), 0);
  EXPECT_EQ(speed.resident_bytes, plan.bytes(kContext + kNew + kWarmUp, kContext));
  EXPECT_GE(speed.reserved_bytes, 3 * speed.resident_bytes);
  EXPECT_GT(first_token_seconds(*model_, plan, kContext), 0);
}

TEST_P(DecodeSpeedOf, FindsTheLargestBatchThatFits) {
  const auto plan = this->plan();
  const int64_t one = plan.bytes(kContext + 7, kContext);  // two to warm up
  EXPECT_EQ(largest_batch(plan, kContext, 5, 4 * one), 4);
  EXPECT_EQ(largest_batch(plan, kContext, 5, 4 * one - 1), 3);
  EXPECT_EQ(largest_batch(plan, kContext, 5, one - 1), 0);
}

TEST_P(DecodeSpeedOf, OfTheLargestBatchIsOfStoragesThatFit) {
  const auto plan = this->plan();
  const SpeedOptions options{.context = kContext, .tokens = 5};
  const int64_t alone = decode_speed(*model_, plan, options).reserved_bytes;
  EXPECT_FALSE(largest_batch_speed(*model_, plan, options, alone - 1));
  for (const int64_t memory : {alone, 3 * alone}) {
    const auto speed = largest_batch_speed(*model_, plan, options, memory);
    ASSERT_TRUE(speed);
    EXPECT_LE(speed->reserved_bytes, memory);
    EXPECT_GE(speed->batch, 1);
  }
}

}  // namespace
}  // namespace kvsmith
