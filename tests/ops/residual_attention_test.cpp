#include "ops/residual_attention.h"

#include "tests/support/close.h"

namespace kvsmith {
namespace {

constexpr int64_t kBatch = 2, kHeads = 4, kKvHeads = 2, kWidth = 6, kWindow = 3;

std::vector<at::Tensor> input(int64_t seq) {
  torch::manual_seed(seq);
  return {torch::randn({kBatch, kHeads, seq, kWidth}),
          torch::randn({kBatch, kKvHeads, seq, kWidth}),
          torch::randn({kBatch, kKvHeads, seq, kWidth})};
}

/// The definition: scores of all pairs, masked.
at::Tensor by_definition(const std::vector<at::Tensor>& x,
                         const Positions& positions,
                         int64_t sinks) {
  const auto features = [](const at::Tensor& t) {
    return torch::cat({torch::softmax(t, 3), torch::softmax(-t, 3)}, 3);
  };
  const int64_t group = kHeads / kKvHeads;
  const auto k = features(x[1]).repeat_interleave(group, 1), v = x[2].repeat_interleave(group, 1);
  const auto at = positions.at().expand({kBatch, -1});
  const auto query = at.unsqueeze(2), row = at.unsqueeze(1);
  auto seen = row.le(query - kWindow).logical_and(row.ge(sinks));
  if (positions.is_packed()) {
    const auto& segments = positions.segments();
    seen = seen.logical_and(segments.unsqueeze(2).eq(segments.unsqueeze(1)));
  }
  const auto scores = torch::matmul(features(x[0]), k.transpose(2, 3)) * seen.unsqueeze(1);
  return torch::matmul(scores, v);
}

at::Tensor residual(const std::vector<at::Tensor>& x,
                    const Positions& positions,
                    int64_t sinks,
                    int64_t chunk = kScanChunk) {
  const auto leaving = leaving_in_order(x[1], x[2], positions, kWindow, sinks);
  return residual_attention(x[0], leaving, positions, {}, chunk).out;
}

Positions documents() {
  const auto at = torch::cat({torch::arange(2), torch::arange(9), torch::arange(12)});
  const auto segments = torch::cat({torch::zeros(2), torch::ones(9), torch::full({12}, 2)});
  return Positions::packed(at.expand({kBatch, -1}).contiguous(),
                           segments.to(torch::kInt).expand({kBatch, -1}).contiguous());
}

TEST(ResidualAttention, EqualsItsDefinitionForEveryChunkLength) {
  for (const int64_t sinks : {0, 2}) {
    for (const auto& positions : {Positions::range(0, 23), documents()}) {
      const auto x = input(23);
      const auto want = by_definition(x, positions, sinks);
      for (const int64_t chunk : {1, 4, 16, 64})
        EXPECT_TRUE(close(residual(x, positions, sinks, chunk), want, 1e-5)) << chunk;
      const auto got_grads =
          grads_of([&](const auto& in) { return residual(in, positions, sinks); }, x);
      const auto want_grads =
          grads_of([&](const auto& in) { return by_definition(in, positions, sinks); }, x);
      for (size_t i = 0; i < x.size(); ++i)
        EXPECT_TRUE(close(got_grads[i], want_grads[i], 1e-5)) << i;
    }
  }
}

TEST(ResidualAttention, ATextShorterThanTheWindowGivesZerosAndFiniteGradients) {
  const auto x = input(kWindow);
  const auto positions = Positions::range(0, kWindow);
  EXPECT_EQ(residual(x, positions, 0).abs().max().item<double>(), 0);
  for (const auto& grad : grads_of([&](const auto& in) { return residual(in, positions, 0); }, x))
    EXPECT_EQ(grad.abs().max().item<double>(), 0);
}

TEST(ResidualAttention, PaddingLeavesTheStateAlone) {
  const auto x = input(9);
  const auto positions = Positions::ragged({{0, 9}, {0, 5}});
  const auto leaving = leaving_in_order(x[1], x[2], positions, kWindow, 0);
  const auto all = residual_attention(x[0], leaving, positions);
  std::vector<at::Tensor> alone;
  for (const auto& t : x) alone.push_back(t.narrow(0, 1, 1).narrow(2, 0, 5));
  const auto range = Positions::range(0, 5);
  const auto one =
      residual_attention(alone[0], leaving_in_order(alone[1], alone[2], range, kWindow, 0), range);
  EXPECT_TRUE(close(all.state.narrow(0, 1, 1), one.state, 1e-6));
  EXPECT_TRUE(close(all.out.narrow(0, 1, 1).narrow(2, 0, 5), one.out, 1e-6));
}

TEST(ResidualAttention, FindsWhatLeavesAmongRowsInAnyOrder) {
  const auto x = input(12);
  const auto positions = Positions::range(7, 5);
  const auto order = torch::randperm(12);
  const auto shuffled = Positions::scattered(order.unsqueeze(0));
  const auto rows = [&](const at::Tensor& t) { return t.index_select(2, order); };
  const auto among = leaving_among(rows(x[1]), rows(x[2]), shuffled, positions, kWindow, 5);
  EXPECT_TRUE(torch::equal(among.k, x[1].narrow(2, 4, 5)));
  EXPECT_TRUE(torch::equal(among.v, x[2].narrow(2, 4, 5)));
  EXPECT_TRUE(torch::equal(among.wanted, torch::tensor({{0, 1, 1, 1, 1}}).to(torch::kBool)));
}

}  // namespace
}  // namespace kvsmith
