// Promises that every kind of mixer keeps. A new kind joins by a line in layer_cases.h.
#include "core/error.h"
#include "models/decoder.h"
#include "models/mixer.h"
#include "tests/support/close.h"
#include "tests/support/expect_error.h"
#include "tests/support/layer_cases.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

class MixerContract : public ::testing::TestWithParam<LayerCase> {
 protected:
  void SetUp() override {
    torch::manual_seed(7);
    model_ = Decoder(GetParam().config);
    initialize(*model_, 11);
    model_->eval();
    tokens_ = torch::randint(0, GetParam().config.vocab_size, {2, kLength}, torch::kLong);
    whole_ = model_->forward(tokens_).detach();
  }
  /// Logits of tokens_ fed through a cache in chunks.
  at::Tensor in_chunks(int64_t size, KvCache& cache) {
    const torch::NoGradGuard no_grad;
    std::vector<at::Tensor> out;
    for (int64_t first = 0; first < kLength; first += size) {
      const int64_t count = std::min(size, kLength - first);
      out.push_back(model_->logits(
          model_->step(tokens_.narrow(1, first, count), Positions::range(first, count), cache)));
    }
    return torch::cat(out, 1);
  }

  static bool has_windows() {
    const KvGraph graph(GetParam().config);
    for (int64_t i = 0; i < graph.size(); ++i)
      if (graph.is_owner(i) && graph[i].window > 0) return true;
    return false;
  }

  static bool has_states() {
    const KvGraph graph(GetParam().config);
    for (int64_t i = 0; i < graph.size(); ++i)
      if (!layer_kind(graph[i].kind).has_rows && graph[i].window == 0) return true;
    return false;
  }

  static constexpr int64_t kLength = 29;
  Decoder model_{nullptr};
  at::Tensor tokens_, whole_;
};

TEST_P(MixerContract, ChunkingDoesNotChangeTheResult) {
  for (const int64_t size : {1, 2, 5, 13, 29}) {
    auto cache = model_->make_cache({.batch = 2, .growth_rows = 7});
    EXPECT_TRUE(close(in_chunks(size, cache), whole_, 2e-5)) << "chunks of " << size;
  }
}

TEST_P(MixerContract, LooksOnlyBack) {
  auto changed = tokens_.clone();
  changed.narrow(1, 17, kLength - 17).add_(1).remainder_(GetParam().config.vocab_size);
  const auto after = model_->forward(changed).detach();
  EXPECT_TRUE(close(after.narrow(1, 0, 17), whole_.narrow(1, 0, 17), 1e-6));
  EXPECT_GT((after - whole_).narrow(1, 17, kLength - 17).abs().max().item<double>(), 1e-3);
}

TEST_P(MixerContract, EveryParameterGetsAGradient) {
  model_->forward(tokens_).pow(2).sum().backward();
  for (const auto& item : model_->named_parameters()) {
    ASSERT_TRUE(item.value().grad().defined()) << item.key();
    if (item.key().ends_with("k_proj.bias"))
      continue;  // softmax does not see a constant added to all scores
    EXPECT_GT(item.value().grad().abs().max().item<double>(), 0) << item.key();
  }
}

TEST_P(MixerContract, CheckpointingChangesNoGradient) {
  const auto gradients = [&](bool checkpointing) {
    model_->zero_grad();
    model_->set_gradient_checkpointing(checkpointing);
    model_->forward(tokens_).pow(2).sum().backward();
    std::vector<at::Tensor> out;
    for (const auto& parameter : model_->parameters()) out.push_back(parameter.grad().clone());
    return out;
  };
  const auto plain = gradients(false), again = gradients(true);
  const bool adds_up = model_->graph().is_cyclic();  // gradients of several passes, in any order
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_TRUE(adds_up ? close(again[i], plain[i], 1e-4)
                        : ::testing::AssertionResult(torch::equal(again[i], plain[i])))
        << model_->named_parameters()[i].key();
  }
}

TEST_P(MixerContract, CacheBytesAreThoseOfTheFormula) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    model_->set_compute_type(type);
    auto cache = model_->make_cache({.batch = 2, .growth_rows = 8});
    EXPECT_EQ(cache.bytes_used(), 0);
    in_chunks(5, cache);
    const auto element = static_cast<int64_t>(c10::elementSize(type));
    EXPECT_EQ(cache.bytes_used(), 2 * kv_cache_bytes(GetParam().config, kLength, element));
    EXPECT_EQ(cache.bytes_reserved(), 2 * kv_cache_bytes(GetParam().config, 32, element));
    cache.clear();
    EXPECT_EQ(cache.bytes_used(), 0);
  }
}

TEST_P(MixerContract, SequencesOfDifferentLengthsDoNotDisturbEachOther) {
  const torch::NoGradGuard no_grad;
  auto cache = model_->make_cache({.batch = 2, .growth_rows = 4});
  auto hidden = model_->step(tokens_.narrow(1, 0, 9), Positions::ragged({{0, 9}, {0, 4}}), cache);
  EXPECT_TRUE(close(model_->logits(hidden[0][8]), whole_[0][8], 2e-5));
  EXPECT_TRUE(close(model_->logits(hidden[1][3]), whole_[1][3], 2e-5));
  for (int64_t t = 0; t < 6; ++t) {
    const auto next = torch::stack({tokens_[0][9 + t], tokens_[1][4 + t]}).unsqueeze(1);
    hidden = model_->step(next, Positions::ragged({{9 + t, 1}, {4 + t, 1}}), cache);
    EXPECT_TRUE(close(model_->logits(hidden[0][0]), whole_[0][9 + t], 2e-5)) << t;
    EXPECT_TRUE(close(model_->logits(hidden[1][0]), whole_[1][4 + t], 2e-5)) << t;
  }
  const auto& config = GetParam().config;
  EXPECT_EQ(cache.bytes_used(), kv_cache_bytes(config, 15, 4) + kv_cache_bytes(config, 10, 4));
}

TEST_P(MixerContract, WritingPositionsAgainReplacesThem) {
  const torch::NoGradGuard no_grad;
  auto cache = model_->make_cache({.batch = 2});
  in_chunks(29, cache);
  if (has_states()) {  // it holds all tokens in one
    expect_error([&] { model_->step(tokens_.narrow(1, 20, 3), Positions::range(20, 3), cache); },
                 ExitCode::kInternal, "cannot go back");
    return;
  }
  if (has_windows()) {  // what has left a ring cannot come back
    expect_error([&] { model_->step(tokens_.narrow(1, 20, 3), Positions::range(20, 3), cache); },
                 ExitCode::kInternal, "cannot come back");
    return;
  }
  const auto again = model_->step(tokens_.narrow(1, 20, 3), Positions::range(20, 3), cache);
  EXPECT_TRUE(close(model_->logits(again), whole_.narrow(1, 20, 3), 2e-5));
  EXPECT_EQ(cache.bytes_used(), 2 * kv_cache_bytes(GetParam().config, 23, 4));
}

TEST_P(MixerContract, AForkContinuesOnItsOwn) {
  const torch::NoGradGuard no_grad;
  auto cache = model_->make_cache({.batch = 2, .growth_rows = 7});
  model_->step(tokens_.narrow(1, 0, 17), Positions::range(0, 17), cache);
  auto fork = cache.fork();
  const auto other = tokens_.narrow(1, 17, 12).flip({1});
  for (int64_t t = 17; t < kLength; ++t)
    model_->step(other.narrow(1, t - 17, 1), Positions::range(t, 1), fork);
  EXPECT_EQ(fork.bytes_used(), 2 * kv_cache_bytes(GetParam().config, kLength, 4));
  const auto rest =
      model_->logits(model_->step(tokens_.narrow(1, 17, 12), Positions::range(17, 12), cache));
  EXPECT_TRUE(close(rest, whole_.narrow(1, 17, 12), 2e-5));
}

TEST_P(MixerContract, ARowAloneIsTheRowInABatch) {
  EXPECT_TRUE(close(model_->forward(tokens_.narrow(0, 1, 1)), whole_.narrow(0, 1, 1), 2e-5));
}

TEST_P(MixerContract, PackedDocumentsDoNotSeeEachOther) {
  const auto at =
      torch::cat({torch::arange(12), torch::arange(17)}).expand({2, kLength}).contiguous();
  const auto segments = torch::cat({torch::zeros(12), torch::ones(17)})
                            .to(torch::kInt)
                            .expand({2, kLength})
                            .contiguous();
  auto cache = model_->make_transient();
  const auto packed = model_->logits(model_->step(tokens_, Positions::packed(at, segments), cache));
  EXPECT_TRUE(close(packed.narrow(1, 0, 12), whole_.narrow(1, 0, 12), 2e-5));
  EXPECT_TRUE(close(packed.narrow(1, 12, 17), model_->forward(tokens_.narrow(1, 12, 17)), 2e-5));
}

TEST_P(MixerContract, StaysNearFp32InBf16) {
  model_->set_compute_type(at::kBFloat16);
  for (const auto weights : {at::kFloat, at::kBFloat16}) {  // in training, and as loaded for use
    model_->to(weights);
    auto cache = model_->make_cache({.batch = 2});
    const auto coarse = in_chunks(1, cache);
    EXPECT_LT((coarse - whole_).abs().mean().item<double>(),
              0.03 * whole_.abs().mean().item<double>())
        << weights;
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds,
                         MixerContract,
                         ::testing::ValuesIn(layer_cases()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace kvsmith
