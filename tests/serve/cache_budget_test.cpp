#include "serve/cache_budget.h"

#include <gtest/gtest.h>

#include "cache/cache_options.h"
#include "tests/cache/managed_cases.h"

namespace kvsmith {
namespace {

int64_t most_of_every_length(const CachePlan& plan, int64_t prompt, int64_t new_tokens) {
  int64_t most = plan.bytes(prompt, prompt);
  for (int64_t tokens = prompt; tokens < prompt + new_tokens; ++tokens)
    most = std::max(most, plan.bytes(tokens, prompt));
  return most;
}

void expect_most(const CacheConfig& cache, const ModelConfig& model, const std::string& name) {
  const CachePlan plan(cache, model, at::kFloat, 128);
  for (const int64_t prompt : {1, 5, 15, 16, 39})
    for (const int64_t new_tokens : {0, 1, 2, 7, 16, 40})
      EXPECT_EQ(most_bytes(plan, prompt, new_tokens),
                most_of_every_length(plan, prompt, new_tokens))
          << name << " of " << prompt << " and " << new_tokens;
}

TEST(MostBytes, IsThatOfEveryLengthWithEveryMethod) {
  Decoder model = managed_model(tiny_model(2, [](auto& c) { c.head_dim = 32; }));
  const TemporaryDirectory folder;
  for (const auto& kind : retention_kinds()) {
    auto config = small_budget(kind.name);
    if (kind.by_gates) config.duo_gates = write_gates(*model, folder.path());
    expect_most(config, model->config(), kind.name);
  }
  for (const auto& kind : row_codecs()) {
    CacheConfig config;
    config.codec_k = config.codec_v = kind.name;
    expect_most(config, model->config(), kind.name);
  }
  for (const auto& words : std::vector<std::vector<std::string>>{
           {"full"},
           {"leankv"},
           {"minicache", "merge_from=0"},
           {"kivi2", "q_group_size=8", "residual_length=8"},
           {"kivi4", "q_group_size=8", "residual_length=16", "full_precision_layers=[1]"}})
    expect_most(cache_config_of(words), model->config(), words[0]);
}

TEST(MostBytes, IsThatOfEveryLengthInEveryArchitecture) {
  for (const auto& [name, model] : layer_cases()) {
    expect_most({}, model, name);
    CacheConfig coded;
    coded.codec_k = coded.codec_v = "bf16";
    expect_most(coded, model, name + " in bf16");
  }
}

TEST(MostBytes, AreToldAtOnceOfAnyLength) {
  const CachePlan plan(small_budget("keyformer"), tiny_model(), at::kFloat, 128);
  constexpr int64_t kEndless = int64_t{1} << 40;
  EXPECT_EQ(most_bytes(plan, 10, kEndless), plan.bytes(kEndless, 10));
}

TEST(FittingTokens, AreAsManyAsTheBudgetHoldsAndAtLeastOne) {
  const auto model = tiny_model(2, [](auto& c) { c.head_dim = 8; });
  for (const auto& words : std::vector<std::vector<std::string>>{
           {"full"}, {"kivi2", "q_group_size=8", "residual_length=8"}}) {
    const CachePlan plan(cache_config_of(words), model, at::kFloat, 128);
    for (int64_t bytes = 0; bytes <= plan.bytes(70); bytes += plan.bytes(1)) {
      int64_t expected = 1;
      while (expected < 40 && most_of_every_length(plan, 10, expected + 1) <= bytes) ++expected;
      EXPECT_EQ(fitting_tokens(plan, 10, 40, bytes), expected) << words[0] << " in " << bytes;
    }
  }
}

}  // namespace
}  // namespace kvsmith
