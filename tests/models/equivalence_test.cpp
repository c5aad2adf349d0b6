// Architectures that must be equal where one contains the other, and comparisons that must fail
// where they are not, so that passing means something.
#include "models/decoder.h"
#include "tests/support/close.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

constexpr int64_t kLength = 20;

Decoder model_of(const std::function<void(ModelConfig&)>& change) {
  Decoder model(tiny_model(2, [&](ModelConfig& config) {
    config.num_hidden_layers = 4;
    change(config);
  }));
  initialize(*model, 9);  // by name: what two models share is equal
  model->eval();
  return model;
}

at::Tensor text() {
  torch::manual_seed(2);
  return torch::randint(0, 67, {2, kLength}, torch::kLong);
}

at::Tensor logits(const std::function<void(ModelConfig&)>& change) {
  return model_of(change)->forward(text()).detach();
}

at::Tensor plain() {
  return logits([](auto&) {});
}

TEST(Equivalence, AWindowAsLongAsTheTextIsFullAttention) {
  const auto sliding = [](int64_t window, int64_t sinks) {
    return logits([&](auto& c) {
      c.layer_types = {"sliding"};
      c.sliding_window = window;
      c.num_sink_tokens = sinks;
    });
  };
  EXPECT_TRUE(close(sliding(kLength, 0), plain(), 1e-5));
  EXPECT_TRUE(close(sliding(kLength - 4, 4), plain(), 1e-5));
  EXPECT_FALSE(close(sliding(kLength - 1, 0), plain(), 1e-5)) << "one token less must show";
  EXPECT_FALSE(close(sliding(kLength - 5, 4), plain(), 1e-5));
}

TEST(Equivalence, ABoundedMemoryLargerThanTheTextIsFullAttention) {
  const auto bounded = [](int64_t window) {
    return logits([&](auto& c) {
      c.layer_types = {"bounded"};
      c.sliding_window = window;
      c.linear.num_slots = 3;
    });
  };
  EXPECT_TRUE(close(bounded(kLength), plain(), 1e-5));
  EXPECT_FALSE(close(bounded(kLength - 1), plain(), 1e-5));
}

TEST(Equivalence, SlotsThatForgetAllTheyMayDecodeAsTheyTrain) {
  auto model = model_of([](auto& c) {
    c.layer_types = {"bounded"};
    c.sliding_window = 3;
    c.linear.num_slots = 3;
  });
  const torch::NoGradGuard no_grad;
  for (const auto& item : model->named_parameters())
    if (item.key().ends_with("slot_keep_offset")) item.value().fill_(-100);
  const auto whole = model->forward(text());
  auto cache = model->make_cache({.batch = 2});
  std::vector<at::Tensor> steps;
  for (int64_t t = 0; t < kLength; ++t)
    steps.push_back(
        model->logits(model->step(text().narrow(1, t, 1), Positions::range(t, 1), cache)));
  EXPECT_TRUE(close(torch::cat(steps, 1), whole, 1e-5));
}

TEST(Equivalence, FusedKvBeginsAsItsLiteForm) {
  EXPECT_TRUE(close(logits([](auto& c) { c.pattern = "fusedkv"; }),
                    logits([](auto& c) { c.pattern = "fusedkv-lite"; }), 1e-5));
}

TEST(Equivalence, TheIdentityMapIsNoSharing) {
  EXPECT_TRUE(torch::equal(logits([](auto& c) { c.kv_source_layers = {0, 1, 2, 3}; }), plain()));
  EXPECT_FALSE(close(logits([](auto& c) { c.kv_source_layers = {0, 0, 2, 3}; }), plain(), 1e-5));
}

TEST(Equivalence, YocoIsTrailingReuseBelowAWindow) {
  EXPECT_TRUE(torch::equal(logits([](auto& c) {
                             c.pattern = "yoco";
                             c.sliding_window = kLength;
                           }),
                           logits([](auto& c) { c.pattern = "trailing-reuse-1"; })));
}

TEST(ReceptiveField, OfStackedWindowsIsExactlyTheirSum) {
  constexpr int64_t kLayers = 4, kWindow = 3, kReach = kLayers * (kWindow - 1);
  auto model = model_of([](auto& c) {
    c.layer_types = {"sliding"};
    c.sliding_window = kWindow;
  });
  const auto before = model->forward(text()).detach();
  auto changed = text();
  changed.select(1, 5).add_(1).remainder_(67);
  const auto moved = (model->forward(changed).detach() - before).abs().amax({0, 2});
  for (int64_t t = 0; t < kLength; ++t)
    EXPECT_EQ(moved[t].item<float>() > 0, t >= 5 && t <= 5 + kReach) << t;
}

TEST(SharedStorage, ReadersOwnNoProjectionsAndNoBytes) {
  auto model = model_of([](auto& c) { c.pattern = "cla-2"; });
  for (const auto& item : model->named_parameters()) {
    const bool of_reader = item.key().find("layers.1.") != std::string::npos;
    EXPECT_FALSE(of_reader && item.key().find("k_proj") != std::string::npos) << item.key();
  }
  auto cache = model->make_cache({.batch = 1, .growth_rows = 1});
  model->step(text().narrow(0, 0, 1), Positions::range(0, kLength), cache);
  EXPECT_EQ(cache.bytes_used(), kLength * 2 * 2 * 2 * 8 * 4);  // of two layers, not four
}

}  // namespace
}  // namespace kvsmith
