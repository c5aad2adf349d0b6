#include "inference/kept_cache.h"

#include <gtest/gtest.h>

#include "cache/cache_options.h"
#include "tests/support/close.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

struct KeptCase {
  std::string name, cache;
  bool by_chunks, rewinds;
  std::function<void(ModelConfig&)> change = {};
};

class KeptCacheOf : public ::testing::TestWithParam<KeptCase> {
 protected:
  static std::vector<int32_t> text(int64_t size, int32_t seed = 0) {
    std::vector<int32_t> out;
    for (int32_t i = 0; i < size; ++i) out.push_back(3 + (seed * 11 + i * 17) % 60);
    return out;
  }
  at::Tensor fresh(const std::vector<int32_t>& text) { return made().read(text); }
  KeptCache made() { return {model_, cache_config_of(words_of(GetParam().cache))}; }

  Decoder model_ = [] {
    Decoder model(tiny_model(2, GetParam().change));
    initialize(*model, 3);
    model->eval();
    return model;
  }();
};

TEST_P(KeptCacheOf, HoldsWhatReadingAllAtOnceGives) {
  const auto [name, method, by_chunks, rewinds, change] = GetParam();
  auto cache = made();
  auto whole = text(40);
  cache.read(whole);
  EXPECT_EQ(cache.reused(), 0);
  for (const int32_t token : {5, 9, 4}) {
    cache.append(token);
    whole.push_back(token);
  }
  // it goes on
  for (const int32_t token : text(6, 1)) whole.push_back(token);
  EXPECT_TRUE(close(cache.read(whole), fresh(whole), 1e-4));
  EXPECT_EQ(cache.reused(), by_chunks ? 43 : 0);
  // it ends otherwise
  whole.resize(41);
  for (const int32_t token : text(9, 2)) whole.push_back(token);
  EXPECT_TRUE(close(cache.read(whole), fresh(whole), 1e-4));
  EXPECT_EQ(cache.reused(), rewinds ? 41 : 0);
  // it is the same: the last token is read again
  EXPECT_TRUE(close(cache.read(whole), fresh(whole), 1e-4));
  EXPECT_EQ(cache.reused(), rewinds ? 49 : 0);
  EXPECT_EQ(cache.tokens(), 50);
  // it is another
  EXPECT_TRUE(close(cache.read(text(20, 3)), fresh(text(20, 3)), 1e-4));
  EXPECT_EQ(cache.reused(), 0);
  EXPECT_EQ(cache.bytes_used(), cache.bytes_by_formula());
}

INSTANTIATE_TEST_SUITE_P(
    Kinds,
    KeptCacheOf,
    ::testing::Values(KeptCase{"gqa", "full", true, true},
                      KeptCase{"sliding", "full", true, false,
                               [](auto& c) {
                                 c.layer_types = {"sliding", "full"};
                                 c.sliding_window = 5;
                               }},
                      KeptCase{"bounded", "full", true, false,
                               [](auto& c) {
                                 c.layer_types = {"bounded"};
                                 c.sliding_window = 5;
                               }},
                      KeptCase{"lckv", "full", false, false,
                               [](auto& c) { c.num_hidden_layers = 6, c.pattern = "lckv"; }},
                      KeptCase{"streaming", "streaming budget_tokens=12 protect_sinks=2", false,
                               false},
                      KeptCase{"int8", "int8", false, false}),
    [](const auto& param) { return param.param.name; });

}  // namespace
}  // namespace kvsmith
