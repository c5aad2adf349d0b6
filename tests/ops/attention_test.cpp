#include "ops/attention.h"

#include <algorithm>

#include "tests/support/close.h"

namespace kvsmith {
namespace {

struct Shape {
  const char* name;
  int64_t batch, heads, kv_heads, width;
};

class AttentionPaths : public ::testing::TestWithParam<Shape> {
 protected:
  /// Random q, k, v.
  std::vector<at::Tensor> inputs(int64_t queries, int64_t rows) const {
    torch::manual_seed(1);
    const auto& s = GetParam();
    return {torch::randn({s.batch, s.heads, queries, s.width}),
            torch::randn({s.batch, s.kv_heads, rows, s.width}),
            torch::randn({s.batch, s.kv_heads, rows, s.width})};
  }
  static void expect_agreement(const std::vector<at::Tensor>& x,
                               const Positions& queries,
                               const Positions& rows,
                               int64_t window = 0,
                               int64_t sinks = 0,
                               bool strict = false) {
    const Visibility visibility{queries, rows, window, sinks, strict};
    EXPECT_TRUE(close(attention(x[0], x[1], x[2], visibility),
                      attention_reference(x[0], x[1], x[2], visibility), 1e-5));
    const auto fast =
        grads_of([&](const auto& t) { return attention(t[0], t[1], t[2], visibility); }, x);
    const auto plain = grads_of(
        [&](const auto& t) { return attention_reference(t[0], t[1], t[2], visibility); }, x);
    for (size_t i = 0; i < x.size(); ++i)
      EXPECT_TRUE(close(fast[i], plain[i], 1e-4)) << "gradient " << i;
  }
};

TEST_P(AttentionPaths, WholeSequence) {
  for (const int64_t n : {1, 2, 63, 100}) {
    SCOPED_TRACE(n);
    for (const bool strict : {false, true})
      expect_agreement(inputs(n, n), Positions::range(0, n), Positions::range(0, n), 0, 0, strict);
  }
}

TEST_P(AttentionPaths, ChunkBehindACache) {
  for (const int64_t chunk : {1, 5, 33}) {
    SCOPED_TRACE(chunk);
    expect_agreement(inputs(chunk, 40 + chunk), Positions::range(40, chunk),
                     Positions::range(0, 40 + chunk));
  }
}

TEST_P(AttentionPaths, WindowsOverLongTexts) {
  for (const int64_t window : {1, 20, 70}) {
    for (const int64_t sinks : {0, 3, 30}) {
      for (const int64_t past : {0, 40}) {
        SCOPED_TRACE(testing::Message() << window << " " << sinks << " " << past);
        const int64_t n = 2 * std::max<int64_t>(window, 64) + 13;
        expect_agreement(inputs(n, n + past), Positions::range(past, n),
                         Positions::range(0, n + past), window, sinks, /*strict=*/past == 0);
      }
    }
  }
}

TEST_P(AttentionPaths, SequencesOfDifferentLengths) {
  std::vector<Span> queries, rows;
  for (int64_t b = 0; b < GetParam().batch; ++b) {
    queries.push_back({3 * b + 1, 1});
    rows.push_back({0, 3 * b + 2});
  }
  const auto at = Positions::ragged(queries), row_at = Positions::ragged(rows);
  expect_agreement(inputs(1, row_at.seq()), at, row_at);
}

TEST_P(AttentionPaths, PackedDocuments) {
  const int64_t batch = GetParam().batch, seq = 12;
  auto at = torch::cat({torch::arange(5), torch::arange(7)}).expand({batch, seq}).contiguous();
  auto segments = torch::cat({torch::zeros(5), torch::ones(7)})
                      .to(torch::kInt)
                      .expand({batch, seq})
                      .contiguous();
  const auto positions = Positions::packed(at, segments);
  expect_agreement(inputs(seq, seq), positions, positions);
}

TEST_P(AttentionPaths, GatedHeadsMixTwoAttentions) {
  const int64_t kv_heads = GetParam().kv_heads, group = GetParam().heads / kv_heads;
  for (const auto& [queries, past, window] : {std::tuple<int64_t, int64_t, int64_t>{1, 40, 7},
                                              {13, 0, 5},
                                              {33, 20, 9},
                                              {150, 0, 20},
                                              {150, 9, 70}}) {
    SCOPED_TRACE(testing::Message() << queries << " " << past << " " << window);
    const auto at = Positions::range(past, queries), row_at = Positions::range(0, past + queries);
    auto x = inputs(queries, past + queries);
    x.push_back(torch::rand({kv_heads}));
    const auto mixed = [&](const std::vector<at::Tensor>& t) {
      const HeadGates gates{.alpha = t[3], .sinks = 3, .window = window};
      return attention(t[0], t[1], t[2], {.queries = at, .rows = row_at, .gates = &gates});
    };
    const auto plain = [&](const std::vector<at::Tensor>& t) {
      const auto alpha = t[3].repeat_interleave(group).view({1, -1, 1, 1});
      const auto far = attention_reference(t[0], t[1], t[2], {at, row_at});
      return alpha * far +
             (1 - alpha) * attention_reference(t[0], t[1], t[2], {at, row_at, window, 3});
    };
    EXPECT_TRUE(close(mixed(x), plain(x), 1e-5));
    const auto fast = grads_of(mixed, x), wanted = grads_of(plain, x);
    for (size_t i = 0; i < x.size(); ++i)
      EXPECT_TRUE(close(fast[i], wanted[i], 1e-4)) << "gradient " << i;

    x[3].fill_(1);
    EXPECT_TRUE(torch::equal(mixed(x), attention(x[0], x[1], x[2], {at, row_at})));
    x[3].fill_(0);
    EXPECT_TRUE(torch::equal(mixed(x), attention(x[0], x[1], x[2], {at, row_at, window, 3})));
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes,
                         AttentionPaths,
                         ::testing::Values(Shape{"mha", 2, 4, 4, 16},
                                           Shape{"gqa", 3, 6, 2, 8},
                                           Shape{"mqa", 2, 5, 1, 32}),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(Attention, QueryThatSeesNothingGetsZerosAndFiniteGradients) {
  const auto queries = Positions::ragged({{2, 1}, {0, 0}}),
             rows = Positions::ragged({{0, 3}, {0, 0}});
  torch::manual_seed(2);
  const auto q = torch::randn({2, 4, 1, 8}), k = torch::randn({2, 2, 3, 8}),
             v = torch::randn({2, 2, 3, 8});
  const auto out = attention(q, k, v, {queries, rows});
  EXPECT_TRUE(torch::equal(out[1], torch::zeros_like(out[1])));
  EXPECT_GT(out[0].abs().max().item<double>(), 0);
  for (const auto& grad :
       grads_of([&](const auto& t) { return attention(t[0], t[1], t[2], {queries, rows}); },
                {q, k, v})) {
    EXPECT_TRUE(torch::isfinite(grad).all().item<bool>());
  }
}

TEST(Attention, ValuesMayBeNarrowerOrWiderThanKeys) {
  torch::manual_seed(3);
  for (const int64_t value_width : {8, 24}) {
    for (const int64_t first : {0, 7}) {
      const int64_t rows = first + 9;
      const auto at = Positions::range(first, 9), row_at = Positions::range(0, rows);
      const Visibility visibility{.queries = at, .rows = row_at};
      const std::vector<at::Tensor> x = {torch::randn({2, 4, 9, 16}),
                                         torch::randn({2, 2, rows, 16}),
                                         torch::randn({2, 2, rows, value_width})};
      const auto fast = [&](const auto& t) { return attention(t[0], t[1], t[2], visibility); };
      const auto plain = [&](const auto& t) {
        return attention_reference(t[0], t[1], t[2], visibility);
      };
      EXPECT_TRUE(close(fast(x), plain(x), 1e-5));
      const auto got = grads_of(fast, x), want = grads_of(plain, x);
      for (size_t i = 0; i < x.size(); ++i)
        EXPECT_TRUE(close(got[i], want[i], 1e-4)) << "gradient " << i;
    }
  }
}

TEST(Attention, ConsecutiveQueryHeadsShareAKeyValueHead) {
  const auto at = Positions::range(0, 1);
  auto v = torch::stack({torch::full({1, 4}, 1.0), torch::full({1, 4}, 2.0)})
               .unsqueeze(0);  // [1, 2, 1, 4]
  const auto out = attention(torch::randn({1, 4, 1, 4}), torch::randn({1, 2, 1, 4}), v, {at, at});
  EXPECT_TRUE(close(out.select(3, 0).flatten(), torch::tensor({1.0F, 1.0F, 2.0F, 2.0F}), 1e-6));
}

TEST(Visibility, IsCausalAndStaysInsideDocuments) {
  const auto packed = Positions::packed(torch::tensor({{0, 1, 0, 1}}, torch::kLong),
                                        torch::tensor({{0, 0, 1, 1}}, torch::kInt));
  const auto expected =
      torch::tensor({{1, 0, 0, 0}, {1, 1, 0, 0}, {0, 0, 1, 0}, {0, 0, 1, 1}}).to(torch::kBool);
  EXPECT_TRUE(torch::equal(Visibility({packed, packed}).mask()[0][0], expected));
}

}  // namespace
}  // namespace kvsmith
