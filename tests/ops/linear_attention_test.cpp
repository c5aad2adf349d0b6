#include "ops/linear_attention.h"

#include <functional>

#include "tests/support/close.h"

namespace kvsmith {
namespace {

using Tensors = std::vector<at::Tensor>;

/// One scan as the tests see it: outputs first, then the states, and so the initial states.
struct Kind {
  std::string name;
  std::function<Tensors(int64_t seq)> inputs;
  std::function<Tensors(
      const Tensors& inputs, const Breaks& breaks, const Tensors& initial, int64_t chunk)>
      scan;
  /// One token of one sequence: inputs without batch and time, state in, {out, state...} out.
  std::function<Tensors(const Tensors& token, const Tensors& state)> recurrence;
  std::function<Tensors()> empty_state;  ///< of one sequence

  // the name that GoogleTest looks for
  // NOLINTNEXTLINE(readability-identifier-naming)
  friend void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }
};

constexpr int64_t kBatch = 2, kHeads = 2, kGroup = 3, kKey = 4, kValue = 6, kSlots = 5;

at::Tensor random(std::vector<int64_t> tail, int64_t heads, int64_t seq) {
  std::vector<int64_t> shape = {kBatch, heads, seq};
  shape.insert(shape.end(), tail.begin(), tail.end());
  return torch::randn(shape, torch::kDouble);
}
/// Log gates of which some are so strong that a factored form would overflow even in fp64.
at::Tensor random_gate(std::vector<int64_t> tail, int64_t seq) {
  return -torch::exp(3 * random(std::move(tail), kHeads, seq));
}
at::Tensor zeros(const std::vector<int64_t>& shape) { return torch::zeros(shape, torch::kDouble); }
at::Tensor times_row(const at::Tensor& a, const at::Tensor& b) {
  return a.unsqueeze(-1) * b.unsqueeze(-2);
}
/// q of [heads, key], S of [state_heads, key, value].
at::Tensor look(const at::Tensor& q, const at::Tensor& state) {
  return torch::matmul(q.unflatten(0, {state.size(0), -1}), state).flatten(0, 1);
}
at::Tensor or_undefined(const Tensors& initial, size_t i) {
  return initial.empty() ? at::Tensor() : initial[i];
}

Kind linear(const std::string& name, bool keys, bool values) {
  return {name,
          [=](int64_t seq) {
            return Tensors{random({kKey}, kHeads * kGroup, seq), random({kKey}, kHeads, seq),
                           random({kValue}, kHeads, seq), random_gate({keys ? kKey : 1}, seq),
                           random_gate({kValue}, seq)};
          },
          [=](const Tensors& x, const Breaks& breaks, const Tensors& initial, int64_t chunk) {
            const LogGates gates{keys ? x[3] : at::Tensor(), values ? x[4] : at::Tensor()};
            const auto out = gated_linear_attention(x[0], x[1], x[2], gates, breaks,
                                                    or_undefined(initial, 0), chunk);
            return Tensors{out.out, out.state};
          },
          [=](const Tensors& x, const Tensors& state) {
            auto s = state[0];
            if (keys) s = s * x[3].exp().unsqueeze(-1);
            if (values) s = s * x[4].exp().unsqueeze(-2);
            s = s + times_row(x[1], x[2]);
            return Tensors{look(x[0], s), s};
          },
          [] { return Tensors{zeros({kHeads, kKey, kValue})}; }};
}

Kind delta() {
  return {"delta_rule",
          [](int64_t seq) {
            const auto k = random({kKey}, kHeads, seq);
            return Tensors{random({kKey}, kHeads, seq), k / k.norm(2, -1, true),
                           random({kValue}, kHeads, seq), random_gate({}, seq),
                           torch::sigmoid(random({}, kHeads, seq))};
          },
          [](const Tensors& x, const Breaks& breaks, const Tensors& initial, int64_t chunk) {
            const auto out = gated_delta_rule(x[0], x[1], x[2], x[3], x[4], breaks,
                                              or_undefined(initial, 0), chunk);
            return Tensors{out.out, out.state};
          },
          [](const Tensors& x, const Tensors& state) {
            auto s = state[0] * x[3].exp().unsqueeze(-1).unsqueeze(-1);
            s = s + times_row(x[1], x[4].unsqueeze(-1) * (x[2] - look(x[1], s)));
            return Tensors{look(x[0], s), s};
          },
          [] { return Tensors{zeros({kHeads, kKey, kValue})}; }};
}

Kind slots() {
  return {"slots",
          [](int64_t seq) {
            return Tensors{random({kKey}, kHeads * kGroup, seq), random({kKey}, kHeads, seq),
                           random({kValue}, kHeads, seq), random_gate({kSlots}, seq)};
          },
          [](const Tensors& x, const Breaks& breaks, const Tensors& initial, int64_t chunk) {
            const auto out =
                slot_attention(x[0], x[1], x[2], x[3], -torch::expm1(x[3]), breaks,
                               or_undefined(initial, 0), or_undefined(initial, 1), chunk);
            return Tensors{out.out, out.keys, out.values};
          },
          [](const Tensors& x, const Tensors& state) {
            const auto left = x[3].exp();
            const auto keys = state[0] * left.unsqueeze(-2) + times_row(x[1], 1 - left);
            const auto values = state[1] * left.unsqueeze(-1) + times_row(1 - left, x[2]);
            return Tensors{look(torch::softmax(look(x[0], keys), -1), values), keys, values};
          },
          [] { return Tensors{zeros({kHeads, kKey, kSlots}), zeros({kHeads, kSlots, kValue})}; }};
}

/// ABC by its definition: sums of e^logit times keys, values and 1.
Kind abc() {
  return {
      "abc",
      [](int64_t seq) {
        return Tensors{random({kKey}, kHeads * kGroup, seq), random({kKey}, kHeads, seq),
                       random({kValue}, kHeads, seq), 3 * random({kSlots}, kHeads, seq)};
      },
      [](const Tensors& x, const Breaks& breaks, const Tensors& initial, int64_t chunk) {
        const auto weights = running_weights(x[3], breaks, or_undefined(initial, 2));
        const auto out = slot_attention(x[0], x[1], x[2], weights.log_gate, weights.write, breaks,
                                        or_undefined(initial, 0), or_undefined(initial, 1), chunk);
        return Tensors{out.out, out.keys, out.values, weights.log_sum};
      },
      [](const Tensors& x, const Tensors& state) {
        const auto weight = x[3].exp(), old = state[2].exp(), sum = old + weight;
        const auto keys =
            (state[0] * old.unsqueeze(-2) + times_row(x[1], weight)) / sum.unsqueeze(-2);
        const auto values =
            (state[1] * old.unsqueeze(-1) + times_row(weight, x[2])) / sum.unsqueeze(-1);
        return Tensors{look(torch::softmax(look(x[0], keys), -1), values), keys, values, sum.log()};
      },
      [] {
        return Tensors{zeros({kHeads, kKey, kSlots}), zeros({kHeads, kSlots, kValue}),
                       torch::full({kHeads, kSlots}, -INFINITY, torch::kDouble)};
      }};
}

class Scans : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override { torch::manual_seed(3); }

  /// Token by token, each sequence on its own: {out, states...}.
  static Tensors reference(const Tensors& inputs, const Breaks& breaks, const Tensors& initial) {
    const auto& kind = GetParam();
    std::vector<Tensors> results;
    for (int64_t b = 0; b < kBatch; ++b) {
      auto state = kind.empty_state();
      for (size_t i = 0; i < initial.size(); ++i) state[i] = initial[i][b];
      Tensors outs;
      for (int64_t t = 0; t < inputs[0].size(2); ++t) {
        if (is_set(breaks.starts, b, t)) state = kind.empty_state();
        Tensors token;
        for (const auto& input : inputs) token.push_back(input[b].select(1, t));
        auto next = kind.recurrence(token, state);
        outs.push_back(next[0]);
        if (is_set(breaks.padding, b, t)) continue;
        state.assign(next.begin() + 1, next.end());
      }
      Tensors result = {torch::stack(outs, 1)};
      result.insert(result.end(), state.begin(), state.end());
      results.push_back(result);
    }
    Tensors out;
    for (size_t i = 0; i < results[0].size(); ++i)
      out.push_back(torch::stack({results[0][i], results[1][i]}));
    return out;
  }
  static bool is_set(const at::Tensor& marks, int64_t b, int64_t t) {
    return marks.defined() && marks[b][t].item<bool>();
  }

  static Tensors scan(const Tensors& inputs,
                      const Breaks& breaks,
                      const Tensors& initial,
                      int64_t chunk) {
    return GetParam().scan(inputs, breaks, initial, chunk);
  }
  static Tensors some_state() {
    const auto inputs = GetParam().inputs(7);
    return reference(inputs, {}, {});
  }
  static Tensors tail(const Tensors& all) { return {all.begin() + 1, all.end()}; }

  static void expect_all(const Tensors& got, const Tensors& want, double tolerance) {
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < got.size(); ++i)
      EXPECT_TRUE(close(got[i], want[i], tolerance)) << "result " << i;
  }
  /// Output and gradients of inputs and states; only what is not padding.
  static void expect_agreement(const Tensors& inputs,
                               const Breaks& breaks,
                               const Tensors& initial,
                               int64_t chunk) {
    expect_all(scan(inputs, breaks, initial, chunk), reference(inputs, breaks, initial), 1e-11);
    Tensors leaves = inputs;
    leaves.insert(leaves.end(), initial.begin(), initial.end());
    const auto flat = [&](const Tensors& results) {
      Tensors all;
      for (const auto& result : results) all.push_back(result.flatten());
      return torch::cat(all);
    };
    const auto split = [&](const Tensors& x) {
      const auto border = x.begin() + static_cast<int64_t>(inputs.size());
      return std::pair(Tensors(x.begin(), border), Tensors(border, x.end()));
    };
    const auto fast = grads_of(
        [&](const Tensors& x) {
          const auto [in, state] = split(x);
          return flat(scan(in, breaks, state, chunk));
        },
        leaves);
    const auto plain = grads_of(
        [&](const Tensors& x) {
          const auto [in, state] = split(x);
          return flat(reference(in, breaks, state));
        },
        leaves);
    for (size_t i = 0; i < leaves.size(); ++i) {
      if (!plain[i].defined()) continue;  // a gate that this kind does not have
      EXPECT_TRUE(close(fast[i], plain[i], 1e-9)) << "gradient " << i;
    }
  }
};

TEST_P(Scans, EqualTheRecurrenceForEveryChunk) {
  for (const int64_t seq : {1, 2, 13, 37}) {
    for (const int64_t chunk : {1, 4, 16, 64}) {
      SCOPED_TRACE(::testing::Message() << seq << " tokens in chunks of " << chunk);
      expect_agreement(GetParam().inputs(seq), {}, {}, chunk);
    }
  }
}

TEST_P(Scans, ContinueFromAState) {
  const auto initial = tail(some_state());
  for (const int64_t seq : {1, 21}) {
    SCOPED_TRACE(seq);
    expect_agreement(GetParam().inputs(seq), {}, initial, 8);
  }
}

TEST_P(Scans, ForgetAtTheStartOfADocument) {
  auto segments = torch::zeros({kBatch, 37}, torch::kInt);
  for (const int64_t start : {1, 2, 11, 16, 30}) segments[0].narrow(0, start, 37 - start).add_(1);
  segments[1].narrow(0, 20, 17).add_(1);
  const auto breaks =
      Breaks::of(Positions::packed(torch::zeros_like(segments, torch::kLong), segments));
  for (const int64_t chunk : {1, 4, 16, 64}) {
    SCOPED_TRACE(chunk);
    expect_agreement(GetParam().inputs(37), breaks, {}, chunk);
  }
}

TEST_P(Scans, PaddingLeavesTheStateAsItIs) {
  const auto initial = tail(some_state());
  const auto at = Positions::ragged({{7, 19}, {7, 4}});
  const auto breaks = Breaks::of(at);
  const auto inputs = GetParam().inputs(19);
  const auto got = scan(inputs, breaks, initial, 8), want = reference(inputs, breaks, initial);
  expect_all(tail(got), tail(want), 1e-11);
  EXPECT_TRUE(close(got[0][0], want[0][0], 1e-11));
  EXPECT_TRUE(close(got[0][1].narrow(1, 0, 4), want[0][1].narrow(1, 0, 4), 1e-11));

  // a text that begins beside one that goes on, and one without any token
  const auto begin = Breaks::of(Positions::ragged({{7, 5}, {0, 3}}));
  const auto few = GetParam().inputs(5);
  expect_all(tail(scan(few, begin, initial, 8)), tail(reference(few, begin, initial)), 1e-11);
  const auto none = scan(few, Breaks::of(Positions::ragged({{7, 5}, {7, 0}})), initial, 8);
  for (size_t i = 0; i < initial.size() && i < 2; ++i)
    EXPECT_TRUE(close(none[i + 1][1], initial[i][1], 0)) << i;
}

TEST_P(Scans, HoldInFp32ForLongTextsAndGates) {
  const auto exact = GetParam().inputs(300);
  Tensors inputs;
  for (const auto& input : exact) inputs.push_back(input.to(torch::kFloat));
  const auto want = reference(exact, {}, {});
  for (const int64_t chunk : {16, 64}) {
    const auto got = scan(inputs, {}, {}, chunk);
    for (size_t i = 0; i < got.size(); ++i) {
      const double largest = want[i].abs().max().item<double>();
      EXPECT_TRUE(close(got[i] / largest, want[i] / largest, 1e-5)) << "result " << i;
    }
  }
  for (const auto& grad :
       grads_of([&](const Tensors& x) { return scan(x, {}, {}, 64)[0]; }, inputs)) {
    EXPECT_TRUE(!grad.defined() || torch::isfinite(grad).all().item<bool>());
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds,
                         Scans,
                         ::testing::Values(linear("no_gates", false, false),
                                           linear("key_gates", true, false),
                                           linear("value_gates", false, true),
                                           linear("both_gates", true, true),
                                           delta(),
                                           slots(),
                                           abc()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace kvsmith
