#include "cache/exactness.h"

#include <gtest/gtest.h>

#include "cache/cache_options.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

TEST(CacheExactness, IsThatOfTheMethodAndOfEveryLayer) {
  const auto of = [](const std::function<void(ModelConfig&)>& change, const std::string& cache) {
    const auto config = tiny_model(2, change);
    const auto out = CacheExactness::of(KvGraph(config), cache_config_of(words_of(cache)));
    return std::pair(out.by_chunks, out.rewinds);
  };
  const auto plain = [](ModelConfig&) {};
  const auto window = [](ModelConfig& config) {
    config.layer_types = {"full", "sliding"};
    config.sliding_window = 8;
  };
  const auto state = [](ModelConfig& config) { config.layer_types = {"gated_delta"}; };
  const auto ahead = [](ModelConfig& config) {
    config.num_hidden_layers = 4;
    config.pattern = "lckv";
  };
  EXPECT_EQ(of(plain, "full"), std::pair(true, true));
  EXPECT_EQ(of(window, "full"), std::pair(true, false));
  EXPECT_EQ(of(state, "full"), std::pair(true, false));
  EXPECT_EQ(of(ahead, "full"), std::pair(false, false));
  for (const char* cache : {"int8", "h2o", "model/int8", "minicache"})
    EXPECT_EQ(of(plain, cache), std::pair(false, false)) << cache;
}

}  // namespace
}  // namespace kvsmith
