#include "convert/convert.h"

#include <filesystem>
#include <map>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "configs/run_config.h"
#include "convert/attention_weights.h"
#include "tests/convert/conversions.h"
#include "tests/support/close.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

TEST(Convert, TheSameGraphGivesTheSameModel) {
  const auto source = random_model(tiny_model(2));
  EXPECT_TRUE(torch::equal(logits(converted(source, [](ModelConfig&) {}).model), logits(source)));
}

TEST(Convert, WindowsAsLongAsTheTextChangeNothing) {
  const auto source = random_model(tiny_model(2));
  const auto out = converted(source, [](ModelConfig& c) {
    c.layer_types = {"sliding", "full"};
    c.sliding_window = 64;
  });
  EXPECT_TRUE(close(logits(out.model), logits(source), 1e-6));
}

/// Key head 1 is head 0 with every rotary plane turned and stretched, value head 1 a linear map of
/// head 0: one head can serve both.
TEST(Convert, HeadsThatOneCanServeAreMergedExactly) {
  const torch::NoGradGuard no_grad;
  for (const bool biased : {false, true}) {
    const auto source =
        random_model(tiny_model(2, [&](ModelConfig& c) { c.attention_bias = biased; }));
    const auto twist =
        torch::complex(torch::tensor({0.8, -1.1, 0.3, 1.4}), torch::tensor({0.1, 0.9, -0.7, 0.2}));
    torch::manual_seed(3);
    const auto map = torch::randn({8, 8}) * 0.4;
    for (const char* layer : {"model.layers.0.self_attn.", "model.layers.1.self_attn."}) {
      for (const char* part : {"weight", "bias"}) {
        if (!biased && std::string(part) == "bias") continue;
        auto k = parameter(source, std::string(layer) + "k_proj." + part);
        auto v = parameter(source, std::string(layer) + "v_proj." + part);
        if (std::string(part) == "bias") {
          k.normal_(0, 0.1);
          v.normal_(0, 0.1);
        }
        const auto first = k.narrow(0, 0, 8).t();
        k.narrow(0, 8, 8).copy_(from_planes(to_planes(first) * twist).t());
        v.narrow(0, 8, 8).copy_(torch::matmul(v.narrow(0, 0, 8).t(), map).t());
      }
    }
    const auto out = converted(source, [](ModelConfig& c) { c.num_key_value_heads = 1; });
    EXPECT_TRUE(close(logits(out.model), logits(source), 1e-4));
    const auto mean =
        converted(source, [](ModelConfig& c) { c.num_key_value_heads = 1; }, Pooling::kMean);
    EXPECT_FALSE(close(logits(mean.model), logits(source), 1e-2));
  }
}

/// Values that are a linear map of keys before their rotation.
TEST(Convert, ValuesThatKeysHoldAreTiedExactly) {
  const torch::NoGradGuard no_grad;
  const auto source = random_model(tiny_model(2));
  torch::manual_seed(4);
  const auto map = torch::randn({8, 8}) * 0.4;
  for (const char* layer : {"model.layers.0.self_attn.", "model.layers.1.self_attn."}) {
    const auto k = parameter(source, std::string(layer) + "k_proj.weight");
    auto v = parameter(source, std::string(layer) + "v_proj.weight");
    for (const int64_t row : {0, 8})
      v.narrow(0, row, 8).copy_(torch::matmul(map.t(), k.narrow(0, row, 8)));
  }
  const auto tied = [](ModelConfig& c) { c.attention_k_eq_v = true; };
  EXPECT_TRUE(close(logits(converted(source, tied).model), logits(source), 1e-4));
  const auto other = random_model(tiny_model(2));
  EXPECT_FALSE(close(logits(converted(other, tied).model), logits(other), 1e-2));
}

TEST(Convert, WhereKeysAreZeroTiedOnesHoldTheValues) {
  const torch::NoGradGuard no_grad;
  const auto tied = [](ModelConfig& c) { c.attention_k_eq_v = true; };
  const auto source = random_model(tiny_model(2));
  clear(source, "k_proj");
  EXPECT_TRUE(close(logits(converted(source, tied).model), logits(source), 1e-4));
  parameter(source, "model.layers.0.self_attn.v_proj.weight").narrow(0, 0, 8).zero_();
  EXPECT_TRUE(close(logits(converted(source, tied).model), logits(source), 1e-4));
}

/// Heads of 64 in a model of width 32: one of 32 dimensions holds what both values say.
TEST(Convert, HeadsWiderThanTheModelAreMergedExactly) {
  const torch::NoGradGuard no_grad;
  const auto source = random_model(tiny_model(2, [](ModelConfig& c) { c.head_dim = 64; }));
  for (const char* layer : {"model.layers.0.self_attn.", "model.layers.1.self_attn."}) {
    const auto k = parameter(source, std::string(layer) + "k_proj.weight");
    k.narrow(0, 64, 64).copy_(k.narrow(0, 0, 64));
  }
  const auto out = converted(source, [](ModelConfig& c) { c.num_key_value_heads = 1; });
  EXPECT_TRUE(close(logits(out.model), logits(source), 1e-4));
}

TEST(Convert, MeanIsTheMeanOfTheProjections) {
  const auto source = random_model(tiny_model(2));
  const auto out = converted(source, [](ModelConfig& c) { c.pattern = "cla-2"; }, Pooling::kMean);
  const auto mean = (parameter(source, "model.layers.0.self_attn.k_proj.weight") +
                     parameter(source, "model.layers.1.self_attn.k_proj.weight")) /
                    2;
  EXPECT_TRUE(close(parameter(out.model, "model.layers.0.self_attn.k_proj.weight"), mean, 1e-6));
  const auto values = (parameter(source, "model.layers.0.self_attn.v_proj.weight") +
                       parameter(source, "model.layers.1.self_attn.v_proj.weight")) /
                      2;
  EXPECT_TRUE(close(parameter(out.model, "model.layers.0.self_attn.v_proj.weight"), values, 1e-6));
  EXPECT_TRUE(torch::equal(parameter(out.model, "model.layers.1.self_attn.q_proj.weight"),
                           parameter(source, "model.layers.1.self_attn.q_proj.weight")));
}

TEST(Convert, AFitIsNearerThanTheMean) {
  const auto source = random_model(tiny_model(2));
  const auto share = [](ModelConfig& c) { c.pattern = "cla-2"; };
  const auto error = [&](Pooling pooling) {
    return (logits(converted(source, share, pooling).model) - logits(source))
        .square()
        .mean()
        .item<double>();
  };
  EXPECT_LT(error(Pooling::kFit), 0.9 * error(Pooling::kMean));
}

TEST(Convert, AHeadThatIsNotUsedIsNoObstacle) {
  const torch::NoGradGuard no_grad;
  const auto source = random_model(tiny_model(2));
  for (const char* part : {"k_proj.weight", "v_proj.weight"})
    parameter(source, std::string("model.layers.0.self_attn.") + part).narrow(0, 0, 8).zero_();
  const auto one_head = [](ModelConfig& c) { c.num_key_value_heads = 1; };
  EXPECT_TRUE(torch::isfinite(logits(converted(source, one_head).model)).all().item<bool>());
  clear(source, "v_proj");  // attention adds nothing, whatever its keys
  EXPECT_TRUE(close(logits(converted(source, one_head).model), logits(source), 1e-6));
}

TEST(Convert, ATextOfTwoTokensIsEnoughToGoOn) {
  const auto source = random_model(tiny_model(2));
  ModelConfig target = sizes_of(source->config());
  target.pattern = "cla-2";
  ASSERT_TRUE(fill_in(target).empty());
  Decoder reader = source;
  const auto needed = moments_needed(*source, target);
  const auto moments = Moments::of(*reader, {5, 6}, 100, needed);
  const auto out = convert(*source, target, moments, Pooling::kFit, 1);
  EXPECT_TRUE(torch::isfinite(logits(out.model)).all().item<bool>());
  expect_error([&] { Moments::of(*reader, {}, 100, needed); }, ExitCode::kBadData, "no tokens");
}

TEST(Convert, SaysWhichLayersBecomeSomethingElse) {
  const auto source = random_model(tiny_model(2, [](ModelConfig& c) {
    c.layer_types = {"sliding", "full"};
    c.sliding_window = 16;
  }));
  const auto out = converted(source, [](ModelConfig&) {});
  ASSERT_EQ(out.origins.size(), 1U);
  EXPECT_EQ(out.origins[0].tensor, "layers 0");
  EXPECT_EQ(out.origins[0].from, "sliding (window 16) -> full");
}

TEST(Convert, LinearCodesAsWideAsHeadsAreExact) {
  const auto source = random_model(tiny_model(2));
  const auto out = converted(source, [](ModelConfig& c) {
    c.layer_types = {"autoencoded"};
    c.autoencoder.autoencoder_kind = "linear";
    c.autoencoder.autoencoder_dim = 8;
  });
  EXPECT_TRUE(close(logits(out.model), logits(source), 1e-4));
}

/// A norm whose weight leaves four of eight dimensions of each key; four of values are zero.
TEST(Convert, LinearCodesAreOfKeysBehindTheirNorm) {
  const torch::NoGradGuard no_grad;
  const auto source = random_model(tiny_model(2, [](ModelConfig& c) { c.qk_norm = true; }));
  for (const char* layer : {"model.layers.0.self_attn.", "model.layers.1.self_attn."}) {
    parameter(source, std::string(layer) + "k_norm.weight")
        .copy_(torch::tensor({2.0, 0.0, 1.0, 0.0, 3.0, 0.0, 0.5, 0.0}));
    const auto v = parameter(source, std::string(layer) + "v_proj.weight");
    for (const int64_t row : {4, 12}) v.narrow(0, row, 4).zero_();
  }
  const auto out = converted(source, [](ModelConfig& c) {
    c.layer_types = {"autoencoded"};
    c.autoencoder.autoencoder_kind = "linear";
    c.autoencoder.autoencoder_dim = 4;
  });
  EXPECT_TRUE(close(logits(out.model), logits(source), 1e-4));
}

TEST(Convert, BoundedMemoriesKeepTheProjections) {
  const auto source = random_model(tiny_model(2));
  const auto out = converted(source, [](ModelConfig& c) {
    c.layer_types = {"bounded", "full"};
    c.sliding_window = 64;
    c.linear.num_slots = 4;
  });
  // nothing has left the window yet
  EXPECT_TRUE(close(logits(out.model), logits(source), 1e-4));
  bool names_new = false;
  for (const auto& origin : out.origins) names_new |= origin.from.starts_with("new");
  EXPECT_TRUE(names_new);
}

TEST(Convert, LayersThatReadAheadGetKeysOfTheTop) {
  const auto source = random_model(tiny_model(2, [](ModelConfig& c) { c.num_hidden_layers = 4; }));
  const auto lckv = [](ModelConfig& c) { c.pattern = "lckv"; };
  const auto fitted = converted(source, lckv);
  EXPECT_TRUE(torch::isfinite(logits(fitted.model)).all().item<bool>());
  const auto out = converted(source, lckv, Pooling::kMean);
  const auto name = [](int64_t layer) { return mixer_name(layer) + "k_proj.weight"; };
  const auto mean = (parameter(source, name(1)) + parameter(source, name(2))) / 2;
  EXPECT_TRUE(close(parameter(out.model, name(2)), mean, 1e-6));
  EXPECT_FALSE(out.model->named_parameters().contains(name(1)));  // reads layer 2
  for (const int64_t own : {0, 3})
    EXPECT_TRUE(torch::equal(parameter(out.model, name(own)), parameter(source, name(own))));
}

/// What becomes of a Llama, by recipe.
TEST(Convert, EveryRecipeIsConvertedToOrRefusedWithTheReason) {
  const std::map<std::string, const char*> refused = {
      {"abc", "cannot begin from attention"},
      {"fusedkv", "cannot begin from attention"},
      {"gated-delta", "cannot begin from attention"},
      {"gemma", "more than the KV graph would change"},
      {"gla", "cannot begin from attention"},
      {"gla2", "cannot begin from attention"},
      {"gsa", "cannot begin from attention"},
      {"gta", "cannot begin from attention"},
      {"k-eq-v", "--set 'model.qk_norm=false'"},
      {"mha", "cannot share evenly"}};
  const auto source = random_model(tiny_model(2, [](ModelConfig& c) { c.num_hidden_layers = 6; }));
  const auto base = run_config_of(sizes_of(source->config()));
  size_t refusals = 0;
  for (const auto& entry : std::filesystem::directory_iterator(
           std::filesystem::path(KVSMITH_SOURCE_DIR) / "configs/architectures")) {
    SCOPED_TRACE(entry.path().filename());
    const auto change = [&](ModelConfig& c) {
      c = load_run_config({entry.path()}, {"model.sliding_window=8"}, base).model;
    };
    const auto reason = refused.find(entry.path().stem());
    if (reason != refused.end()) {
      ++refusals;
      expect_error([&] { converted(source, change); }, ExitCode::kConfig, reason->second);
    } else {
      const auto made = logits(converted(source, change).model);
      EXPECT_TRUE(torch::isfinite(made).all().item<bool>());
    }
  }
  EXPECT_EQ(refusals, refused.size());
  const auto tied = [&](ModelConfig& c) {
    c = load_run_config(
            {std::filesystem::path(KVSMITH_SOURCE_DIR) / "configs/architectures/k-eq-v.toml"},
            {"model.qk_norm=false"}, base)
            .model;
  };
  EXPECT_TRUE(converted(source, tied).model->config().attention_k_eq_v);
}

TEST(Convert, RefusesWhatItCannotMake) {
  const auto source = random_model(tiny_model(2));
  const auto refuses = [&](const std::function<void(ModelConfig&)>& change, const char* text) {
    expect_error([&] { converted(source, change); }, ExitCode::kConfig, text);
  };
  refuses([](ModelConfig& c) { c.hidden_size = 64; }, "hidden_size");
  refuses([](ModelConfig& c) { c.num_key_value_heads = 4; }, "cannot share evenly");
  for (const char* kind : {"gla", "gsa", "abc", "gated_delta"})
    refuses([&](ModelConfig& c) { c.layer_types = {kind}; }, "cannot begin from attention");
  refuses([](ModelConfig& c) { c.layer_rope_theta = {0, 10000}; }, "rope_theta");
  refuses(
      [](ModelConfig& c) {
        c.layer_types = {"latent"};
        c.latent.kv_lora_rank = 64;
      },
      "kv_lora_rank 64");
  const auto normed = random_model(tiny_model(2, [](ModelConfig& c) { c.qk_norm = true; }));
  expect_error([&] { converted(normed, [](ModelConfig& c) { c.attention_k_eq_v = true; }); },
               ExitCode::kConfig, "keys or values are normed");
  const auto shared = random_model(tiny_model(2, [](ModelConfig& c) { c.pattern = "cla-2"; }));
  expect_error([&] { converted(shared, [](ModelConfig&) {}); }, ExitCode::kConfig,
               "layer 1 of the source");
}

}  // namespace
}  // namespace kvsmith
