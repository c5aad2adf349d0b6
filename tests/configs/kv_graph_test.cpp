#include "configs/kv_graph.h"

#include <algorithm>
#include <functional>

#include <gtest/gtest.h>

#include "configs/run_config.h"
#include "core/text.h"

namespace kvsmith {
namespace {

struct Filled {
  ModelConfig config;
  std::vector<KeyProblem> problems;
};

/// Six layers, four query heads.
Filled filled(const std::function<void(ModelConfig&)>& change) {
  Filled out;
  out.config.num_hidden_layers = 6;
  out.config.num_key_value_heads = 2;
  out.config.sliding_window = 128;
  change(out.config);
  out.problems = fill_in(out.config);
  return out;
}

ModelConfig with_pattern(const std::string& name, int64_t layers = 6, int64_t warmup = 2) {
  const Filled out = filled([&](ModelConfig& config) {
    config.num_hidden_layers = layers;
    config.lckv_warmup_layers = warmup;
    config.pattern = name;
  });
  for (const auto& problem : out.problems) ADD_FAILURE() << problem.key << ": " << problem.text;
  return out.config;
}

using Layers = std::vector<int64_t>;

TEST(Patterns, ExpandToTheLayersThatPapersDescribe) {
  const struct {
    const char* name;
    Layers sources;
    int64_t warmup = 2;
  } cases[] = {
      {"gqa", {0, 1, 2, 3, 4, 5}},
      {"cla-2", {0, 0, 2, 2, 4, 4}},
      {"cla-4", {0, 0, 0, 0, 4, 4}},
      {"trailing-reuse-3", {0, 1, 2, 2, 2, 2}},
      {"yoco", {0, 1, 2, 3, 3, 3}},
      {"mixattention", {0, 1, 2, 2, 4, 1}},
      {"lckv", {0, 4, 4, 4, 4, 5}},
      {"lckv-sandwich-middle", {0, 2, 2, 2, 2, 5}},
      {"lckv-sandwich-bottom", {0, 1, 1, 1, 1, 5}},
      {"lckv-pizza-top", {0, 1, 5, 5, 5, 5}},
      {"lckv-pizza-top", {5, 5, 5, 5, 5, 5}, 0},
      {"lckv-pizza-bottom", {0, 1, 2, 2, 2, 2}},
      {"lckv-lasagna-top", {1, 1, 3, 3, 5, 5}},
      {"lckv-lasagna-bottom", {0, 0, 2, 2, 4, 4}},
  };
  for (const auto& c : cases) {
    const auto config = with_pattern(c.name, 6, c.warmup);
    EXPECT_EQ(config.k_source_layers, c.sources) << c.name;
    EXPECT_EQ(config.v_source_layers, c.sources) << c.name;
  }
  const auto lite = with_pattern("fusedkv-lite");
  EXPECT_EQ(lite.k_source_layers, (Layers{0, 1, 2, 2, 2, 2}));
  EXPECT_EQ(lite.v_source_layers, (Layers{0, 1, 2, 0, 0, 0}));
  EXPECT_EQ(with_pattern("yoco").layer_types,
            (std::vector<std::string>{"sliding", "sliding", "sliding", "full", "full", "full"}));
  EXPECT_EQ(with_pattern("local-global-2-1").layer_types,
            (std::vector<std::string>{"sliding", "sliding", "full", "sliding", "sliding", "full"}));
}

TEST(Patterns, LckvOfTwentyTwoLayersIsTheAuthors) {
  auto sources = Layers(22, 20);
  sources[0] = 0;
  sources[21] = 21;
  EXPECT_EQ(with_pattern("lckv", 22).kv_source_layers, sources);
  EXPECT_EQ(KvGraph(with_pattern("lckv", 22, 10)).owners(), 11);
}

TEST(Patterns, TakeTheStringOfTheLckvAuthors) {
  const auto config = filled([](auto& c) { c.layer_types = {"0_4s_4_4_4_5"}; });
  EXPECT_TRUE(config.problems.empty());
  EXPECT_EQ(config.config.kv_source_layers, (Layers{0, 4, 4, 4, 4, 5}));
  EXPECT_EQ(config.config.layer_types[1], "sliding");
}

TEST(Patterns, FillingInTwiceChangesNothingAndTheTableSurvivesAFile) {
  for (const char* name :
       {"cla-2", "yoco", "lckv", "fusedkv", "local-global-2-1", "mixattention"}) {
    RunConfig run;
    run.model = with_pattern(name);
    auto again = run.model;
    EXPECT_TRUE(fill_in(again).empty());
    EXPECT_EQ(again, run.model) << name;
    EXPECT_EQ(parse_run_config(to_toml(run), "x").model, run.model) << name;
  }
}

TEST(KvGraph, APeriodUnderAPatternIsThatTableWrittenOut) {
  using Kinds = std::vector<std::string>;
  for (const Kinds& period : {Kinds{"sliding", "full"}, Kinds{"full", "sliding"}}) {
    const auto build = [&](const Kinds& types) {
      return filled([&](auto& c) {
               c.layer_types = types;
               c.pattern = "trailing-reuse-2";
             })
          .config;
    };
    Kinds written;
    for (size_t i = 0; i < 6; ++i) written.push_back(period[i % 2]);
    const auto config = build(period);
    EXPECT_EQ(config, build(written));
    auto again = config;
    EXPECT_TRUE(fill_in(again).empty());
    EXPECT_EQ(again, config);
  }
}

TEST(KvGraph, AListThatFitsSeveralTimesIsAPeriod) {
  const auto config = filled([](auto& c) {
                        c.layer_types = {"full", "gla", "gla"};
                        c.layer_num_key_value_heads = {1, 2};
                        c.layer_rope_theta = {0, 1e4, 1e5};
                      }).config;
  using Kinds = std::vector<std::string>;
  EXPECT_EQ(config.layer_types, (Kinds{"full", "gla", "gla", "full", "gla", "gla"}));
  EXPECT_EQ(config.layer_num_key_value_heads, (std::vector<int64_t>{1, 2, 1, 2, 1, 2}));
  EXPECT_EQ(config.layer_rope_theta, (std::vector<double>{0, 1e4, 1e5, 0, 1e4, 1e5}));
}

TEST(KvGraph, CyclicSlicesAreTheSmallestThatClose) {
  const auto slices = [](const char* name) { return KvGraph(with_pattern(name)).slices(); };
  EXPECT_EQ(slices("gqa"), (std::vector<Slice>{{0, 6, false}}));
  EXPECT_EQ(slices("lckv"), (std::vector<Slice>{{0, 1, false}, {1, 5, true}, {5, 6, false}}));
  EXPECT_EQ(slices("lckv-sandwich-middle"),
            (std::vector<Slice>{{0, 1, false}, {1, 3, true}, {3, 6, false}}));
  EXPECT_EQ(slices("lckv-lasagna-top"),
            (std::vector<Slice>{{0, 2, true}, {2, 4, true}, {4, 6, true}}));
  const auto chained = filled([](auto& c) { c.kv_source_layers = {2, 1, 2, 3, 4, 5}; }).config;
  EXPECT_EQ(KvGraph(chained).slices()[0], (Slice{0, 3, true}));
  const auto growing = filled([](auto& c) { c.kv_source_layers = {1, 4, 2, 3, 4, 5}; }).config;
  EXPECT_EQ(KvGraph(growing).slices()[0], (Slice{0, 5, true})) << "layer 1 waits for layer 4";
}

TEST(KvGraph, OnlyLayersThatAreReadOwnAMemory) {
  const KvGraph graph(with_pattern("lckv"));
  for (int64_t i = 0; i < 6; ++i) EXPECT_EQ(graph.is_owner(i), i == 0 || i >= 4) << i;
  EXPECT_TRUE(graph.reads_ahead(1));
  EXPECT_FALSE(graph.reads_ahead(4));
  const auto split = filled([](auto& c) {
    c.k_source_layers = {0, 0, 0, 0, 0, 0};
    c.v_source_layers = {0, 1, 2, 3, 4, 5};
  });
  ASSERT_TRUE(split.problems.empty());
  EXPECT_FALSE(KvGraph(split.config).keeps_keys(3));
  EXPECT_TRUE(KvGraph(split.config).keeps_values(3));
}

TEST(KvGraph, LatentsHaveAHeadForEachThatIsStored) {
  const Filled mixed = filled([](ModelConfig& config) {
    config.num_key_value_heads = 4;
    config.layer_types = {"full", "latent", "grouped_latent"};
  });
  const KvGraph graph(mixed.config);
  EXPECT_EQ(graph[0].kv_heads, 4);
  EXPECT_EQ(graph[1].kv_heads, 1);
  EXPECT_EQ(graph[2].kv_heads, 2);
}

TEST(KvGraph, ImpossibleTablesAreRefusedWithLayersAndReason) {
  const struct {
    std::function<void(ModelConfig&)> change;
    const char* key;
    const char* part;
  } cases[] = {
      {[](auto& c) { c.layer_types = {"full", "full", "full", "sliding"}; }, "layer_types",
       "has 4 entries for 6 layers"},
      {[](auto& c) { c.kv_source_layers = {0, 0, 0}; }, "k_source_layers", "has 3 entries"},
      {[](auto& c) { c.pattern = "yoko"; }, "pattern", "did you mean \"yoco\""},
      {[](auto& c) { c.pattern = "cla-7"; }, "pattern", "groups of 2 to 6"},
      {[](auto& c) { c.pattern = "mqa"; }, "num_key_value_heads", "one key/value head, not 2"},
      {[](auto& c) { c.pattern = "trailing-reuse-6"; }, "pattern", "1 to 5 layers"},
      {[](auto& c) { c.pattern = "local-global--1-1"; }, "pattern", "needs 1 to 5 local layers"},
      {[](auto& c) {
         c.num_hidden_layers = 3;
         c.pattern = "fusedkv";
       },
       "pattern", "needs at least 4 layers"},
      {[](auto& c) { c.layer_types = {"fused"}; }, "layer_types",
       "layer 0 is fused, which mixes rows of two layers, and reads layer 0 alone"},
      {[](auto& c) {
         c.pattern = "fusedkv";
         c.layer_rope_theta = {1e6, 1e4, 1e4, 1e4, 1e4, 1e4};
       },
       "layer_rope_theta", "layer 3 (fused) reads layer 0 (full), whose keys are rotated"},
      {[](auto& c) {
         c.k_source_layers = {3, 1, 2, 3, 4, 5};
         c.v_source_layers = {0, 1, 2, 3, 4, 5};
       },
       "v_source_layers", "layer 0 reads keys of a layer above it"},
      {[](auto& c) {
         c.pattern = "cla-2";
         c.kv_source_layers = {0, 0, 0, 0, 0, 0};
       },
       "k_source_layers", "contradicts pattern \"cla-2\": layer 2 is 0 here and 2 there"},
      {[](auto& c) {
         c.pattern = "lckv";
         c.lckv_warmup_layers = 6;
       },
       "lckv_warmup_layers", "leave none of 6 to condense"},
      {[](auto& c) { c.layer_types = {"ful"}; }, "layer_types", "did you mean \"full\""},
      {[](auto& c) { c.layer_types = {"0_1_x_3_4_5"}; }, "layer_types", "\"x\""},
      {[](auto& c) { c.kv_source_layers = {0, 1, 2, 3, 4, 6}; }, "k_source_layers",
       "layer 5 reads layer 6; there are layers 0 to 5"},
      {[](auto& c) {
         c.layer_types = {"sliding", "full", "full", "full", "full", "full"};
         c.kv_source_layers = {0, 0, 2, 3, 4, 5};
       },
       "sliding_window", "layer 1 (full) reads layer 0 (sliding), which has evicted all but 128"},
      {[](auto& c) {
         c.pattern = "cla-2";
         c.layer_num_key_value_heads = {2, 4, 2, 2, 2, 2};
       },
       "layer_num_key_value_heads", "which has 2 key/value heads, not 4"},
      {[](auto& c) {
         c.pattern = "cla-2";
         c.layer_rope_theta = {1e4, 0, 1e4, 1e4, 1e4, 1e4};
       },
       "layer_rope_theta", "rotated with base 10000, not 0"},
      {[](auto& c) {
         c.layer_types = {"full", "full", "bounded", "full", "full", "full"};
         c.kv_source_layers = {0, 4, 2, 3, 4, 5};
       },
       "layer_types", "layer 2 (bounded) stands between a layer that reads ahead"},
      {[](auto& c) {
         c.layer_types = {"full", "full", "bounded", "full", "full", "full"};
         c.kv_source_layers = {0, 1, 2, 2, 4, 5};
       },
       "k_source_layers", "layer 3 (full) reads layer 2 (bounded), which keeps something else"},
      {[](auto& c) {
         c.layer_types = {"sliding"};
         c.sliding_window = 0;
       },
       "sliding_window", "no sliding_window is set"},
      {[](auto& c) {
         c.layer_types = {"bounded"};
         c.num_sink_tokens = 4;
         c.linear.num_slots = 16;
         c.bounded.memory_capacity = 20;
       },
       "memory_capacity", "give at least 21"},
      {[](auto& c) {
         c.layer_types = {"bounded"};
         c.num_key_value_heads = 2;
         c.head_dim = 8;
         c.num_sink_tokens = 3;
         c.linear.num_slots = 5;
         c.bounded.memory_capacity_bytes = 935;
       },
       "memory_capacity_bytes",
       "give at least 936"},  // 2 heads (4 tokens 16 bf16, 5 slots 17 fp32)
      {[](auto& c) {
         c.layer_types = {"bounded"};
         c.bounded.memory_capacity = 200;
         c.bounded.memory_capacity_bytes = 200000;
       },
       "memory_capacity_bytes", "give one of them"},
      {[](auto& c) {
         c.pattern = "lckv";
         c.dropout = 0.1;
       },
       "dropout", "set dropout = 0"},
      {[](auto& c) {
         c.layer_types = {"sliding"};
         c.attention_k_eq_v = c.qk_norm = true;
       },
       "attention_k_eq_v", "is an option of full layers, and the model has none"},
      {[](auto& c) {
         c.layer_types = {"gla"};
         c.v_norm = true;
       },
       "v_norm", "and the model has none"},
      {[](auto& c) {
         c.layer_types = {"latent"};
         c.query_pre_attn_scalar = 1;
       },
       "query_pre_attn_scalar", "and the model has none"},
      {[](auto& c) {
         c.pattern = "fusedkv-lite";
         c.attention_k_eq_v = c.qk_norm = true;
       },
       "attention_k_eq_v", "both are one tensor"},
      {[](auto& c) {
         c.layer_types = {"sliding", "full", "full", "full", "full", "full"};
         c.k_source_layers = {0, 1, 1, 3, 4, 5};
         c.v_source_layers = {0, 1, 0, 3, 4, 5};
       },
       "v_source_layers", "remember different tokens"},
  };
  for (const auto& c : cases) {
    const auto problems = filled(c.change).problems;
    const bool found = std::ranges::any_of(problems, [&](const KeyProblem& problem) {
      return problem.key == c.key && problem.text.find(c.part) != std::string::npos;
    });
    std::string all;
    for (const auto& problem : problems) all += cat("  ", problem.key, ": ", problem.text, "\n");
    EXPECT_TRUE(found) << c.key << ": " << c.part << "\n" << all;
  }
}

}  // namespace
}  // namespace kvsmith
