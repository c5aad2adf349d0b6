// What layers with a recurrent state promise besides the contract of all mixers.
#include "core/error.h"
#include "models/decoder.h"
#include "models/footprint.h"
#include "models/mixer.h"
#include "models/state_memory.h"
#include "ops/layers.h"
#include "ops/linear_attention.h"
#include "ops/losses.h"
#include "tests/support/allocations.h"
#include "tests/support/close.h"
#include "tests/support/decoding.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

class StateLayers : public ::testing::TestWithParam<const char*> {
 protected:
  ModelConfig config(const std::function<void(ModelConfig&)>& change = {}) const {
    return tiny_model(2, [&](ModelConfig& model) {
      model.layer_types = {GetParam()};
      if (change) change(model);
    });
  }
  static Decoder model_of(const ModelConfig& config) {
    Decoder model(config);
    initialize(*model, 5);
    return model;
  }
};

TEST_P(StateLayers, HaveTheParametersOfTheFormula) {
  for (const int64_t size : {1, 3, 8}) {
    const auto tiny = config([&](ModelConfig& model) {
      model.linear.linear_num_heads = size;
      model.linear.linear_head_dim = 2 * size + 1;
      model.linear.num_slots = size;
      model.linear.linear_conv_kernel_dim = size;
    });
    EXPECT_EQ(model_footprint(tiny).parameters, Decoder(tiny)->parameter_count());
  }
}

TEST_P(StateLayers, BytesAreConstantFromTheFirstTokenOn) {
  const auto tiny = config();
  EXPECT_EQ(kv_cache_bytes(tiny, 0, 4), 0);
  const int64_t constant = kv_cache_bytes(tiny, 1, 4);
  const torch::InferenceMode inference;
  auto model = model_of(tiny);
  for (const int64_t tokens : {1, 3, 64, 200}) {
    EXPECT_EQ(kv_cache_bytes(tiny, tokens, 4), constant);
    const AllocationCounter allocations;
    auto cache = model->make_cache({.batch = 3});
    model->step(torch::zeros({3, tokens}, torch::kLong), Positions::range(0, tokens), cache);
    EXPECT_EQ(cache.bytes_used(), 3 * constant);
    EXPECT_EQ(cache.bytes_reserved(), 3 * constant);
    // besides the cache nothing of the step may stay alive
    EXPECT_NEAR(static_cast<double>(allocations.live_bytes()), 3.0 * static_cast<double>(constant),
                2048);
  }
}

TEST_P(StateLayers, StateKeepsItsAddressAndIsFp32) {
  const torch::InferenceMode inference;
  const auto tiny = config();
  auto mixer = mixer_kind(GetParam()).make(tiny, KvGraph(tiny), 0);
  for (auto& parameter : mixer->parameters()) parameter.fill_(0.01);
  auto memory = mixer->make_cache({.batch = 2});
  const auto& state = dynamic_cast<StateMemory&>(*memory).state();
  std::vector<void*> addresses;
  for (int64_t t = 0; t < 5; ++t) {
    mixer->step(torch::ones({2, 1, tiny.hidden_size}, torch::kBFloat16), Positions::range(t, 1),
                *memory);
    std::vector<void*> now;
    for (const auto& tensor : state) now.push_back(tensor.data_ptr());
    if (t == 0) addresses = now;
    EXPECT_EQ(now, addresses);
  }
  EXPECT_EQ(state[0].scalar_type(), at::kFloat);
}

TEST_P(StateLayers, StepsMayEndAnywhereInTheChunksOfTheScan) {
  const torch::NoGradGuard no_grad;
  auto model = model_of(config());
  torch::manual_seed(6);
  const auto tokens = torch::randint(0, 67, {2, 200}, torch::kLong);
  const auto whole = model->forward(tokens);
  for (const auto& steps : {std::vector<int64_t>{63, 1, 1, 135}, {64, 64, 72}, {1, 130, 2, 67}}) {
    EXPECT_TRUE(close(logits_in_steps(model, tokens, steps), whole, 2e-5));
  }
}

TEST_P(StateLayers, PackedDocumentsMayBeShortAndMany) {
  auto model = model_of(config());
  torch::manual_seed(4);
  const auto tokens = torch::randint(0, 67, {1, 150}, torch::kLong);
  std::vector<at::Tensor> at, segments, alone;
  int64_t first = 0;
  for (const int64_t length : {1, 1, 2, 60, 3, 64, 1, 18}) {
    at.push_back(torch::arange(length, torch::kLong));
    segments.push_back(torch::full({length}, static_cast<int64_t>(at.size()), torch::kInt));
    alone.push_back(model->forward(tokens.narrow(1, first, length)));
    first += length;
  }
  const auto positions =
      Positions::packed(torch::cat(at).unsqueeze(0), torch::cat(segments).unsqueeze(0));
  auto cache = model->make_transient();
  const auto packed = model->logits(model->step(tokens, positions, cache));
  EXPECT_TRUE(close(packed, torch::cat(alone, 1), 2e-5));

  packed.pow(2).sum().backward();
  const auto by_packed = model->parameters();
  auto other = model_of(config());
  for (size_t i = 0, start = 0; i < at.size(); ++i) {
    const auto length = at[i].size(0);
    other->forward(tokens.narrow(1, static_cast<int64_t>(start), length)).pow(2).sum().backward();
    start += static_cast<size_t>(length);
  }
  const auto by_alone = other->parameters();
  for (size_t i = 0; i < by_packed.size(); ++i) {
    const double scale = by_alone[i].grad().abs().max().item<double>();
    EXPECT_TRUE(close(by_packed[i].grad() / scale, by_alone[i].grad() / scale, 1e-4)) << i;
  }
}

TEST_P(StateLayers, ExtremeActivationsStayFinite) {
  auto model = model_of(config([](ModelConfig& tiny) { tiny.initializer_range = 20; }));
  const auto tokens = torch::arange(200, torch::kLong).remainder(67).unsqueeze(0);
  const auto logits = model->forward(tokens);
  EXPECT_TRUE(torch::isfinite(logits).all().item<bool>());
  torch::log_softmax(logits, -1).select(2, 0).sum().backward();
  for (const auto& item : model->named_parameters())
    EXPECT_TRUE(torch::isfinite(item.value().grad()).all().item<bool>()) << item.key();
}

TEST_P(StateLayers, ActivationsAreNearTheEstimate) {
  for (const char* precision : {"fp32", "bf16"}) {
    RunConfig run;
    run.model = config([](ModelConfig& model) {
      model.hidden_size = 128;
      model.num_hidden_layers = 8;
      model.linear.num_slots = 32;
    });
    run.train.batch_size = 4;
    run.train.sequence_length = 256;
    run.train.precision = precision;
    auto model = model_of(run.model);
    if (run.train.precision == "bf16") model->set_compute_type(at::kBFloat16);
    const AllocationCounter allocations;
    auto cache = model->make_transient();
    const auto tokens = torch::zeros({4, 256}, torch::kLong);
    const auto hidden = model->step(tokens, Positions::range(0, 256), cache);
    const auto loss =
        linear_cross_entropy(hidden.flatten(0, 1), model->head_weight(), tokens.flatten());
    const double ratio = static_cast<double>(allocations.peak_bytes()) /
                         static_cast<double>(training_footprint(run).activations);
    RecordProperty(precision, std::to_string(ratio));
    EXPECT_GT(ratio, 0.8) << precision;
    EXPECT_LT(ratio, 1.25) << precision;
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds,
                         StateLayers,
                         ::testing::Values("gated_delta", "gla", "gsa", "abc"),
                         [](const auto& test) { return std::string(test.param); });

TEST(Abc, SlotsWithEqualWeightsAreMeans) {
  // Without preference every slot is the mean of all keys and of all values: the output is the
  // mean value, whatever the query.
  const auto tiny = tiny_model(4, [](ModelConfig& model) { model.layer_types = {"abc"}; });
  auto mixer = mixer_kind("abc").make(tiny, KvGraph(tiny), 0);
  torch::manual_seed(1);
  const torch::NoGradGuard no_grad;
  auto parameters = mixer->named_parameters();
  for (auto& item : parameters) item.value().normal_(0, 0.2);
  parameters["f_proj.weight"].zero_();
  parameters["g_norm.weight"].fill_(1);
  parameters["o_proj.weight"].copy_(torch::eye(32));
  const auto x = torch::randn({1, 6, 32});
  auto memory = mixer->make_transient();
  const auto out = mixer->step(x, Positions::range(0, 6), *memory);
  const auto v = torch::silu(kvsmith::linear(x, parameters["v_proj.weight"]));
  const auto mean = v.cumsum(1) / torch::arange(1, 7).view({1, 6, 1});
  EXPECT_TRUE(close(out, rms_norm(torch::silu(mean), torch::ones({32}), tiny.rms_norm_eps), 1e-5));
}

TEST(GatedDelta, OverwritesTheValueOfAKey) {
  // One head; the state after writing v1 and v2 under the same unit key with beta 1 and no decay
  // holds v2 alone: the delta rule's whole point.
  const auto k = torch::tensor({{0.6F, 0.8F}, {0.6F, 0.8F}}).view({1, 1, 2, 2});
  const auto v = torch::tensor({{1.0F, 2.0F}, {-3.0F, 5.0F}}).view({1, 1, 2, 2});
  const auto ones = torch::ones({1, 1, 2});
  const auto scan = gated_delta_rule(k, k, v, 0 * ones, ones, {});
  EXPECT_TRUE(close(scan.out, v, 1e-6));
  EXPECT_TRUE(close(scan.state[0][0], torch::tensor({{-1.8F, 3.0F}, {-2.4F, 4.0F}}), 1e-6));
}

}  // namespace
}  // namespace kvsmith
