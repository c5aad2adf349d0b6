#include "cache/allocators.h"

#include <gtest/gtest.h>

#include "cache/managed_rows.h"
#include "tests/cache/managed_cases.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_directory.h"

namespace kvsmith {
namespace {

constexpr int64_t kTokens = 40;

CacheConfig ada(const std::string& retention, double floor) {
  auto config = small_budget(retention);
  config.allocator = "ada";
  config.ada_floor = floor;
  config.block_tokens = 4;
  return config;
}

/// Rows of each head of layer 1 after a text, [batch, heads].
at::Tensor rows_by_head(Decoder& model, const CacheConfig& config) {
  const CachePlan plan(config, model->config(), at::kFloat, kTokens);
  auto cache = plan.make(*model, {.batch = 2});
  logits_through(model, random_tokens(2, kTokens), cache);
  return dynamic_cast<ManagedRows&>(cache.of(1)).kept().ge(0).sum(2);
}

TEST(Ada, GivesHeadsDifferentSharesOfTheSameSum) {
  Decoder model = managed_model(tiny_model());
  const auto rows = rows_by_head(model, ada("h2o", 0.5));
  EXPECT_TRUE(rows.sum(1).eq(12 * rows.size(1)).all().item<bool>());
  EXPECT_FALSE(rows.eq(12).all().item<bool>());
  // 2 sinks and 4 recent rows are protected, and 6 the floor
  EXPECT_GE(rows.min().item<int64_t>(), 6);
  EXPECT_TRUE(rows_by_head(model, ada("h2o", 1)).eq(12).all().item<bool>());
}

TEST(Ada, SplitsEvenlyWhereHeadsValueRowsAlike) {
  Decoder model = managed_model(tiny_model());
  EXPECT_TRUE(rows_by_head(model, ada("streaming", 0)).eq(12).all().item<bool>());
}

TEST(Ada, ReadsTheSameFromADenseStore) {
  Decoder model = managed_model(tiny_model());
  const auto tokens = random_tokens(2, kTokens);
  const auto logits = [&](const char* store) {
    auto config = ada("tova", 0.2);
    config.store = store;
    const CachePlan plan(config, model->config(), at::kFloat, kTokens);
    auto cache = plan.make(*model, {.batch = 2});
    return logits_through(model, tokens, cache);
  };
  EXPECT_TRUE(logits("paged").equal(logits("dense")));
}

TEST(Duo, KeepsAllInTheHeadsOfTheHighestGates) {
  const TemporaryDirectory folder;
  Decoder model = managed_model(tiny_model());
  auto config = small_budget("duo", 23);
  config.duo_gates = write_gates(*model, folder.path());
  const CachePlan plan(config, model->config(), at::kFloat, kTokens);
  const auto gates = read_head_gates(config.duo_gates);
  double lowest = 2, highest = -1;
  int64_t full = 0, heads = 0;
  for (const auto& of : gates.layers) {
    for (size_t head = 0; head < of.gates.size(); ++head, ++heads) {
      const bool is_full = plan.of(of.layer)->head_budgets[head] > kTokens;
      full += is_full;
      if (is_full) lowest = std::min(lowest, of.gates[head]);
      if (!is_full) highest = std::max(highest, of.gates[head]);
    }
  }
  EXPECT_GE(lowest, highest);
  // 6 rows in a streaming head, 40 in a full one: half of them make 23 on average
  EXPECT_EQ(full, heads / 2);
  int64_t row = plan.of(0)->row_bytes();
  EXPECT_EQ(plan.bytes(kTokens), 23 * heads * row);
}

TEST(Duo, RefusesGatesThatAreMissingOrOfAnotherModel) {
  const TemporaryDirectory folder;
  Decoder model = managed_model(tiny_model());
  auto config = small_budget("duo", 23);
  const auto plan = [&] { return CachePlan(config, model->config(), at::kFloat, kTokens); };
  expect_error(plan, ExitCode::kConfig, "kvsmith calibrate");
  config.duo_gates = write_gates(*model, folder.path());
  const CachePlan good = plan();
  Decoder other = managed_model(tiny_model(), 4);
  expect_error([&] { good.make(*other, {}); }, ExitCode::kConfig, "other weights");
  config.allocator = "ada";
  expect_error(plan, ExitCode::kConfig, "allocator");
  config.allocator = "uniform";
  config.budget_tokens = 6;
  expect_error(plan, ExitCode::kConfig, "give at least 7");
}

TEST(CachePlan, RefusesStoresAndAllocatorsWithoutEffect) {
  const auto refused = [](const std::function<void(CacheConfig&)>& change, const ModelConfig& model,
                          const char* part) {
    auto config = small_budget("h2o");
    change(config);
    expect_error([&] { CachePlan(config, model, at::kFloat, kTokens); }, ExitCode::kConfig, part);
  };
  const ModelConfig model = tiny_model();
  refused([](auto& c) { c.allocator = "ada"; },
          tiny_model(2, [](auto& c) { c.num_key_value_heads = 1; }), "several heads");
  refused(
      [](auto& c) {
        c.evict = "before";
        c.retention = "snapkv";
      },
      model, "evict = \"before\" with retention = \"snapkv\"");
  refused([](auto& c) { c.evict = "before"; }, pattern("lckv").config, "read ahead");
  refused(
      [](auto& c) {
        c = CacheConfig{};
        c.retention = "leankv";
        c.store = "paged";
      },
      model, "stores of their own");
}

}  // namespace
}  // namespace kvsmith
