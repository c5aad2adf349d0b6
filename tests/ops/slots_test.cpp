#include "ops/slots.h"

#include <cmath>

#include "ops/attention.h"
#include "tests/support/close.h"

namespace kvsmith {
namespace {

constexpr int64_t kBatch = 2, kHeads = 4, kKvHeads = 2, kWidth = 8, kSlots = 3;

struct Input {
  std::vector<at::Tensor> x;  ///< q, k, v, log_keep, take, bias
  BoundedRows rows() const { return {x[0], x[1], x[2], x[0] * 0.9, x[1] * 0.9}; }
  SlotWrites writes() const { return {x[3], x[4]}; }
};

Input input(int64_t seq, double slowest = 0.1) {
  torch::manual_seed(seq);
  const auto gates = torch::rand({kBatch, kKvHeads, seq, kSlots});
  return {{torch::randn({kBatch, kHeads, seq, kWidth}),
           torch::randn({kBatch, kKvHeads, seq, kWidth}),
           torch::randn({kBatch, kKvHeads, seq, kWidth}), -gates * slowest,
           1 - (-gates * slowest).exp(), torch::randn({kHeads, kSlots})}};
}

/// The definition, token by token: everything is weighed for every query anew, O(seq^3).
at::Tensor by_definition(const Input& input,
                         const Positions& positions,
                         const BoundedShape& shape) {
  const auto rows = input.rows();
  const auto writes = input.writes();
  const int64_t seq = rows.k.size(2), group = kHeads / kKvHeads;
  const double scale = 1 / std::sqrt(static_cast<double>(kWidth));
  auto out = torch::zeros({kBatch, kHeads, seq, kWidth});
  const auto at = positions.at().expand({kBatch, -1});
  for (int64_t b = 0; b < kBatch; ++b) {
    for (int64_t h = 0; h < kHeads; ++h) {
      const int64_t g = h / group;
      for (int64_t t = 0; t < seq; ++t) {
        std::vector<at::Tensor> logits, values;
        auto key = torch::zeros({kSlots, kWidth}), value = torch::zeros({kSlots, kWidth});
        auto mass = torch::zeros({kSlots});
        for (int64_t s = 0; s <= t; ++s) {
          const bool same = !positions.is_packed() ||
                            positions.segments()[b][s].equal(positions.segments()[b][t]);
          if (!same) continue;
          const auto p = at[b][s].item<int64_t>(), query = at[b][t].item<int64_t>();
          if (p < shape.sinks || p > query - shape.window) {
            logits.push_back((rows.rotated_q[b][h][t] * rows.rotated_k[b][g][s]).sum() * scale);
            values.push_back(rows.v[b][g][s]);
          } else {
            const auto keep = writes.log_keep[b][g][s].exp(), take = writes.take[b][g][s];
            key = keep.unsqueeze(1) * key + take.unsqueeze(1) * rows.k[b][g][s];
            value = keep.unsqueeze(1) * value + take.unsqueeze(1) * rows.v[b][g][s];
            mass = keep * mass + take;
          }
        }
        for (int64_t m = 0; m < kSlots; ++m) {
          if (mass[m].item<float>() <= 0) continue;
          logits.push_back((key[m] * rows.q[b][h][t]).sum() / mass[m] * scale + mass[m].log() +
                           input.x[5][h][m]);
          values.push_back(value[m] / mass[m]);
        }
        const auto weights = torch::softmax(torch::stack(logits), 0);
        out[b][h][t] = (weights.unsqueeze(1) * torch::stack(values)).sum(0);
      }
    }
  }
  return out;
}

TEST(BoundedAttention, EqualsItsDefinitionForEveryChunkLength) {
  for (const auto& shape : {BoundedShape{4, 2}, BoundedShape{3, 0}, BoundedShape{1, 1}}) {
    const auto in = input(19);
    const auto positions = Positions::range(0, 19);
    const auto want = by_definition(in, positions, shape);
    for (const int64_t chunk : {1, 2, 5, 19, 64}) {
      EXPECT_TRUE(close(bounded_attention(in.rows(), in.writes(), in.x[5], positions, shape, chunk),
                        want, 1e-5))
          << "window " << shape.window << ", chunk " << chunk;
    }
  }
}

TEST(BoundedAttention, GradientsDoNotDependOnTheChunkLength) {
  const auto positions = Positions::range(0, 17);
  const BoundedShape shape{4, 1};
  const auto gradients = [&](int64_t chunk) {
    return grads_of(
        [&](const std::vector<at::Tensor>& x) {
          const Input in{x};
          return bounded_attention(in.rows(), in.writes(), x[5], positions, shape, chunk);
        },
        input(17).x);
  };
  const auto plain = grads_of(
      [&](const std::vector<at::Tensor>& x) { return by_definition(Input{x}, positions, shape); },
      input(17).x);
  for (const int64_t chunk : {1, 3, 8, 32}) {
    const auto got = gradients(chunk);
    for (size_t i = 0; i < got.size(); ++i)
      EXPECT_TRUE(close(got[i], plain[i], 1e-4)) << "input " << i << ", chunk " << chunk;
  }
}

TEST(BoundedAttention, KeepsDocumentsApart) {
  const auto at =
      torch::cat({torch::arange(8), torch::arange(11)}).expand({kBatch, 19}).contiguous();
  const auto segments = torch::cat({torch::zeros(8), torch::ones(11)})
                            .to(torch::kInt)
                            .expand({kBatch, 19})
                            .contiguous();
  const auto positions = Positions::packed(at, segments);
  const auto in = input(19);
  const BoundedShape shape{3, 2};
  const auto want = by_definition(in, positions, shape);
  for (const int64_t chunk : {1, 4, 7, 64})
    EXPECT_TRUE(close(bounded_attention(in.rows(), in.writes(), in.x[5], positions, shape, chunk),
                      want, 1e-5))
        << chunk;
}

TEST(BoundedAttention, AWindowAsLongAsTheTextIsFullAttention) {
  const auto in = input(12);
  const auto positions = Positions::range(0, 12);
  const auto rows = in.rows();
  EXPECT_TRUE(close(bounded_attention(rows, in.writes(), in.x[5], positions, {12, 0}, 5),
                    attention(rows.rotated_q, rows.rotated_k, rows.v, {positions, positions}),
                    1e-5));
}

TEST(BoundedAttention, StaysFiniteWhenGatesForgetAlmostEverything) {
  constexpr double kForgetsAll = 80;  // far more than they may
  const auto in = input(100, kForgetsAll);
  const auto gradients = grads_of(
      [&](const std::vector<at::Tensor>& x) {
        const Input now{x};
        const SlotWrites writes{x[3].clamp_min(kLeastLogKeep), x[4]};
        return bounded_attention(now.rows(), writes, x[5], Positions::range(0, 100), {6, 1});
      },
      in.x);
  for (const auto& gradient : gradients) EXPECT_TRUE(gradient.isfinite().all().item<bool>());
}

TEST(BoundedAttention, IsExactWhereGatesForgetAsMuchAsTheyMay) {
  constexpr int64_t kSeq = 75;  // whole chunks leave the window, e^-128 each
  auto in = input(kSeq);
  in.x[3].fill_(kLeastLogKeep);
  in.x[4] = 1 - in.x[3].exp();
  const auto positions = Positions::range(0, kSeq);
  const BoundedShape shape{6, 1};
  EXPECT_TRUE(close(bounded_attention(in.rows(), in.writes(), in.x[5], positions, shape),
                    by_definition(in, positions, shape), 1e-5));
  const auto gradients = [&](int64_t chunk) {
    return grads_of(
        [&](const std::vector<at::Tensor>& x) {
          const Input now{x};
          return bounded_attention(now.rows(), now.writes(), x[5], positions, shape, chunk);
        },
        in.x);
  };
  const auto got = gradients(32), token_by_token = gradients(1);
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_TRUE(close(got[i], token_by_token[i], 1e-4)) << "input " << i;
}

TEST(BoundedAttention, TheOrderOfSlotsDoesNotMatter) {
  const auto in = input(15);
  const auto order = torch::tensor({2, 0, 1});
  Input turned = in;
  for (const size_t i : {3, 4}) turned.x[i] = in.x[i].index_select(3, order);
  turned.x[5] = in.x[5].index_select(1, order);
  const auto positions = Positions::range(0, 15);
  EXPECT_TRUE(
      close(bounded_attention(turned.rows(), turned.writes(), turned.x[5], positions, {3, 1}),
            bounded_attention(in.rows(), in.writes(), in.x[5], positions, {3, 1}), 1e-5));
}

}  // namespace
}  // namespace kvsmith
