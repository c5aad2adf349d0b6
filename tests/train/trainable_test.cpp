#include "train/trainable.h"

#include "models/footprint.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

Decoder coded() {
  Decoder model(tiny_model(2, [](ModelConfig& c) { c.layer_types = {"autoencoded"}; }));
  initialize(*model, 1);
  return model;
}

TEST(Trainable, IsEverythingByDefault) {
  auto model = coded();
  EXPECT_EQ(choose_trainable(*model, {}).size(), model->parameters().size());
  EXPECT_EQ(describe_trainable(*model), "");
}

TEST(Trainable, IsWhatFitsAnyPattern) {
  auto model = coded();
  const auto chosen = choose_trainable(*model, {"*.0.*_encoder.*", "model.norm.weight"});
  ASSERT_EQ(chosen.size(), 11U);  // two matrices, two biases and a norm for keys and for values
  EXPECT_EQ(chosen.back().first, "model.norm.weight");
  for (const auto& [name, parameter] : named_parameters(*model)) {
    const bool wanted = name.find(".0.self_attn.k_encoder") != name.npos ||
                        name.find(".0.self_attn.v_encoder") != name.npos ||
                        name == "model.norm.weight";
    EXPECT_EQ(parameter.requires_grad(), wanted) << name;
  }
  EXPECT_NE(describe_trainable(*model).find(" parameters learn, 11 of "), std::string::npos)
      << describe_trainable(*model);
  choose_trainable(*model, {});
  EXPECT_EQ(describe_trainable(*model), "") << "a later choice replaces the first";
}

TEST(Trainable, SparesTheGradientsOfFrozenMatrices) {
  for (const bool tied : {false, true}) {
    const auto config = tiny_model(2, [&](ModelConfig& c) { c.tie_word_embeddings = tied; });
    Decoder model(config);
    EXPECT_EQ(spared_flops_per_token(*model), 0);
    choose_trainable(*model, {"model.norm.weight"});
    EXPECT_EQ(spared_flops_per_token(*model),
              2 * static_cast<double>(model_footprint(config).matmul_parameters));
  }
}

TEST(Trainable, LayersOfSeveralPassesSpareTheGradientOfEach) {
  const auto config = tiny_model(2, [](ModelConfig& c) {
    c.num_hidden_layers = 4;
    c.pattern = "lckv";
  });
  Decoder model(config);
  choose_trainable(*model, {"model.norm.weight"});
  double matrices = 0;
  for (const auto& [name, parameter] : named_parameters(*model)) {
    const bool is_repeated =
        name.starts_with("model.layers.1.") || name.starts_with("model.layers.2.");
    if (parameter.dim() == 2)
      matrices +=
          static_cast<double>((is_repeated ? config.backward_passes : 1) * parameter.numel());
  }
  EXPECT_EQ(config.backward_passes, 2);
  EXPECT_EQ(spared_flops_per_token(*model), 2 * matrices);
}

TEST(Trainable, APatternThatFitsNothingIsRefusedWithTheNearestName) {
  auto model = coded();
  expect_error([&] { choose_trainable(*model, {"*", "*.1.*.k_encodr.in_proj.*"}); },
               ExitCode::kConfig,
               "train.trainable: no parameter fits \"*.1.*.k_encodr.in_proj.*\"; the nearest is "
               "model.layers.1.self_attn.k_encoder.in_proj.weight");
  expect_error([&] { choose_trainable(*model, {"lm_head.*"}); }, ExitCode::kConfig,
               "makes model.embed_tokens.weight the output matrix too");
  Decoder untied(tiny_model(2, [](ModelConfig& c) { c.tie_word_embeddings = false; }));
  EXPECT_EQ(choose_trainable(*untied, {"lm_head.*"}).size(), 1U);
}

}  // namespace
}  // namespace kvsmith
