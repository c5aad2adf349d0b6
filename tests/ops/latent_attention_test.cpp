#include "ops/latent_attention.h"

#include "tests/support/close.h"

namespace kvsmith {
namespace {

struct Shape {
  const char* name;
  int64_t heads, state_heads, content, rotary, value, state;
};

/// Queries [first, first + queries) of a text, over all rows up to the last of them.
struct Text {
  int64_t first, queries;
};
const std::vector<Text> kTexts = {{0, 1}, {0, 2}, {0, 63}, {40, 1}, {40, 5}, {3, 60}};

class LatentAttention : public ::testing::TestWithParam<Shape> {
 protected:
  static constexpr int64_t kBatch = 2;

  /// Content and rotary part of the queries, states, shared key and `up`.
  static std::vector<at::Tensor> inputs(int64_t queries, int64_t rows) {
    torch::manual_seed(3);
    const auto& s = GetParam();
    return {torch::randn({kBatch, s.heads, queries, s.content}),
            torch::randn({kBatch, s.heads, queries, s.rotary}),
            torch::randn({kBatch, s.state_heads, rows, s.state}),
            torch::randn({kBatch, 1, rows, s.rotary}),
            torch::randn({s.heads * (s.content + s.value), s.state}) * 0.3};
  }
  /// The definition: each head's keys and values written out.
  static at::Tensor reference(const std::vector<at::Tensor>& x, const Visibility& visibility) {
    const auto& s = GetParam();
    std::vector<at::Tensor> keys, values;
    for (int64_t head = 0; head < s.heads; ++head) {
      const auto state = x[2].select(1, head / (s.heads / s.state_heads));
      const auto up = x[4].narrow(0, head * (s.content + s.value), s.content + s.value);
      const auto made = torch::matmul(state, up.t());
      keys.push_back(torch::cat({made.narrow(2, 0, s.content), x[3].select(1, 0)}, 2));
      values.push_back(made.narrow(2, s.content, s.value));
    }
    return attention_reference(torch::cat({x[0], x[1]}, 3), torch::stack(keys, 1),
                               torch::stack(values, 1), visibility);
  }
  template <class Form>
  static void expect_agreement(const Form& form,
                               const std::vector<at::Tensor>& x,
                               const Visibility& visibility) {
    const auto call = [&](const std::vector<at::Tensor>& t) {
      return form({t[0], t[1]}, {t[2], t[3]}, t[4], visibility);
    };
    const auto plain = [&](const std::vector<at::Tensor>& t) { return reference(t, visibility); };
    EXPECT_TRUE(close(call(x), plain(x), 1e-5));
    const auto got = grads_of(call, x), want = grads_of(plain, x);
    for (size_t i = 0; i < x.size(); ++i)
      EXPECT_TRUE(close(got[i], want[i], 1e-4)) << "gradient " << i;
  }
};

TEST_P(LatentAttention, BothFormsAreTheDefinition) {
  for (const auto& [first, queries] : kTexts) {
    SCOPED_TRACE(testing::Message() << queries << " queries from " << first);
    const auto x = inputs(queries, first + queries);
    const auto at = Positions::range(first, queries), rows = Positions::range(0, first + queries);
    for (const bool strict : {false, true}) {
      const Visibility visibility{.queries = at, .rows = rows, .strict = strict};
      expect_agreement(latent_attention_expanded, x, visibility);
      expect_agreement(latent_attention_absorbed, x, visibility);
      expect_agreement(latent_attention, x, visibility);
    }
  }
}

TEST_P(LatentAttention, SequencesOfDifferentLengthsAndOneThatSeesNothing) {
  const auto rows = Positions::ragged({{0, 9}, {0, 0}}), at = Positions::ragged({{8, 1}, {0, 0}});
  const auto x = inputs(1, 9);
  const Visibility visibility{.queries = at, .rows = rows};
  expect_agreement(latent_attention_absorbed, x, visibility);
  expect_agreement(latent_attention_expanded, x, visibility);
  const auto out = latent_attention({x[0], x[1]}, {x[2], x[3]}, x[4], visibility);
  EXPECT_TRUE(torch::equal(out[1], torch::zeros_like(out[1])));
}

TEST_P(LatentAttention, PackedDocuments) {
  const auto at = torch::cat({torch::arange(5), torch::arange(7)}).expand({kBatch, 12});
  const auto segments =
      torch::cat({torch::zeros(5), torch::ones(7)}).to(torch::kInt).expand({kBatch, 12});
  const auto positions = Positions::packed(at.contiguous(), segments.contiguous());
  expect_agreement(latent_attention, inputs(12, 12), {.queries = positions, .rows = positions});
}

INSTANTIATE_TEST_SUITE_P(Shapes,
                         LatentAttention,
                         ::testing::Values(Shape{"mla", 4, 1, 16, 8, 16, 64},
                                           Shape{"mla_narrow_value", 3, 1, 12, 4, 8, 20},
                                           Shape{"mla_wide_value", 3, 1, 6, 4, 14, 20},
                                           Shape{"mla_small_latent", 4, 1, 16, 8, 16, 8},
                                           Shape{"gla", 6, 2, 16, 8, 12, 32}),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(TiedAttention, IsAttentionWhoseKeysRepeatTheValues) {
  torch::manual_seed(4);
  for (const auto& [first, queries] : kTexts) {
    SCOPED_TRACE(testing::Message() << queries << " queries from " << first);
    const int64_t rows = first + queries;
    const std::vector<at::Tensor> x = {
        torch::randn({2, 6, queries, 10}), torch::randn({2, 6, queries, 6}),
        torch::randn({2, 3, rows, 16}), torch::randn({2, 1, rows, 6})};
    const auto at = Positions::range(first, queries), row_at = Positions::range(0, rows);
    for (const bool strict : {false, true}) {
      const Visibility visibility{.queries = at, .rows = row_at, .strict = strict};
      const auto tied = [&](const std::vector<at::Tensor>& t) {
        return tied_attention({t[0], t[1]}, {t[2], t[3]}, visibility);
      };
      const auto plain = [&](const std::vector<at::Tensor>& t) {
        const auto key = torch::cat({t[2].narrow(3, 0, 10), t[3].repeat_interleave(3, 1)}, 3);
        return attention_reference(torch::cat({t[0], t[1]}, 3), key, t[2], visibility);
      };
      EXPECT_TRUE(close(tied(x), plain(x), 1e-5));
      const auto got = grads_of(tied, x), want = grads_of(plain, x);
      for (size_t i = 0; i < x.size(); ++i)
        EXPECT_TRUE(close(got[i], want[i], 1e-4)) << "gradient " << i;
    }
  }
}

}  // namespace
}  // namespace kvsmith
