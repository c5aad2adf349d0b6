#include "configs/head_reuse.h"

#include <algorithm>
#include <functional>

#include <gtest/gtest.h>

#include "configs/run_config.h"
#include "core/text.h"

namespace kvsmith {
namespace {

/// Six autoencoded layers of two key/value heads, and what is wrong with them.
std::vector<KeyProblem> problems_of(ModelConfig& config,
                                    const std::vector<std::string>& reused,
                                    const std::function<void(ModelConfig&)>& change = {}) {
  config.num_hidden_layers = 6;
  config.num_key_value_heads = 2;
  config.layer_types = {"autoencoded"};
  config.autoencoder.reused_heads = reused;
  if (change) change(config);
  return fill_in(config);
}

TEST(HeadReuse, ItemsNameALayerAHeadAndMaybeAStream) {
  EXPECT_EQ(parse_reused_head("3:1"), (ReusedHead{3, 1, true, true}));
  EXPECT_EQ(parse_reused_head("12:0:k"), (ReusedHead{12, 0, true, false}));
  EXPECT_EQ(parse_reused_head("3:10:v"), (ReusedHead{3, 10, false, true}));
  for (const char* text : {"", "3", "3:", ":1", "3:1:", "3:1:kv", "-3:1", "3:-1", "3:1 ", "a:1",
                           "3-1", "99999999999999999999:1"})
    EXPECT_EQ(parse_reused_head(text), std::nullopt) << text;
  for (const char* text : {"3:1", "12:0:k", "3:10:v"})
    EXPECT_EQ(to_string(*parse_reused_head(text)), text);
}

TEST(HeadReuse, TheGraphKnowsWhoStoresAndWhoReads) {
  RunConfig run;
  ASSERT_TRUE(problems_of(run.model, {"2:1", "2:0:v", "3:1:k", "5:0", "5:1"}).empty());
  const KvGraph graph(run.model);
  EXPECT_EQ(graph[2].reused_keys, (std::vector<int64_t>{1}));
  EXPECT_EQ(graph[2].reused_values, (std::vector<int64_t>{0, 1}));
  const std::vector<int64_t> keys = {2, 2, 1, 1, 2, 0}, values = {2, 2, 0, 2, 2, 0};
  const std::vector<int64_t> last = {0, 2, 3, 3, 5, 5};
  for (int64_t i = 0; i < 6; ++i) {
    EXPECT_EQ(graph.key_heads(i), keys[static_cast<size_t>(i)]) << i;
    EXPECT_EQ(graph.value_heads(i), values[static_cast<size_t>(i)]) << i;
    EXPECT_EQ(graph.last_reader(i), last[static_cast<size_t>(i)]) << i;
    EXPECT_EQ(graph.is_owner(i), i < 5) << i;
  }
  EXPECT_EQ(graph.owners(), 5);
  run.model.vocab_size = 100;
  EXPECT_EQ(parse_run_config(to_toml(run), "x").model, run.model) << "survives a file";
}

TEST(HeadReuse, ImpossibleItemsAreRefusedWithTheirReasonAndAWayOut) {
  const struct {
    std::vector<std::string> items;
    std::function<void(ModelConfig&)> change;
    const char* part;
  } cases[] = {
      {{"3-1"}, {}, "item \"3-1\" is not LAYER:HEAD, LAYER:HEAD:k or LAYER:HEAD:v"},
      {{"0:1"}, {}, "names layer 0 of 6; a head is read from the layer below, so name layer 1"},
      {{"6:1"}, {}, "names layer 6 of 6"},
      {{"3:2"}, {}, "names head 2; layer 3 has key/value heads 0 to 1"},
      {{"3:1", "3:1:k"}, {}, "item \"3:1:k\" says again what another item says"},
      {{"3:1"},
       [](auto& c) { c.layer_types = {"full"}; },
       "layer 3 is full, and only autoencoded layers read single heads"},
      {{"3:1"},
       [](auto& c) {
         c.layer_types.assign(6, "autoencoded");
         c.layer_types[2] = "full";
       },
       "layer 2 (full) keeps something else than layer 3 (autoencoded); leave the item out"},
      {{"3:1"},
       [](auto& c) { c.pattern = "cla-2"; },
       "layer 3 (autoencoded) has no keys of its own, it reads those of layer 2 (autoencoded)"},
      {{"2:1"}, [](auto& c) { c.pattern = "cla-2"; }, "layer 1 (autoencoded) has no keys"},
      {{"2:1"},
       [](auto& c) { c.k_source_layers = {0, 1, 1, 3, 4, 5}; },
       "it reads those of layer 1 (autoencoded); \"2:1:v\" is possible"},
      {{"3:1"},
       [](auto& c) { c.layer_num_key_value_heads = {2, 2, 4, 2, 2, 2}; },
       "layer 3 (autoencoded) has 2 key/value heads and layer 2 (autoencoded) has 4"},
      {{"3:1"},
       [](auto& c) { c.layer_rope_theta = {1e4, 1e4, 1e4, 0, 1e4, 1e4}; },
       "are rotated with base 10000, not 0 (0: no rotation); \"3:1:v\" is possible"},
      {{"4:1"},
       [](auto& c) { c.kv_source_layers = {0, 1, 4, 3, 4, 5}; },
       "layer 4 (autoencoded) is one of layers 2 to 4, which are run repeatedly because some read"},
      {{"5:1"},
       [](auto& c) { c.kv_source_layers = {0, 1, 4, 3, 4, 5}; },
       "layer 4 (autoencoded) is one of layers 2 to 4, which are run repeatedly because some read"},
  };
  for (const auto& c : cases) {
    ModelConfig config;
    const auto problems = problems_of(config, c.items, c.change);
    std::string all;
    for (const auto& problem : problems) all += cat("  ", problem.key, ": ", problem.text, "\n");
    ASSERT_EQ(problems.size(), 1u) << c.part << "\n" << all;
    EXPECT_EQ(problems[0].key, "reused_heads");
    EXPECT_NE(problems[0].text.find(c.part), std::string::npos) << c.part << "\n" << all;
  }
  ModelConfig config;
  EXPECT_TRUE(problems_of(config, {"2:1:v"}, [](ModelConfig& c) {
                c.k_source_layers = {0, 1, 1, 3, 4, 5};
              }).empty());
}

}  // namespace
}  // namespace kvsmith
