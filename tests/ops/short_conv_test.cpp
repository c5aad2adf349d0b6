#include "ops/short_conv.h"

#include "tests/support/close.h"

namespace kvsmith {
namespace {

constexpr int64_t kChannels = 5;

at::Tensor random_text(int64_t batch, int64_t seq) { return torch::randn({batch, seq, kChannels}); }

class ShortConvKernels : public ::testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { torch::manual_seed(8); }
  const at::Tensor weight_ = torch::randn({kChannels, GetParam()});

  ShortConv conv(const at::Tensor& x, const Positions& at, const at::Tensor& tail = {}) const {
    return short_conv(x, weight_, at, tail);
  }
};

TEST_P(ShortConvKernels, IsADepthwiseConvolutionPaddedAtTheFront) {
  for (const int64_t seq : {1, 2, 9}) {
    const auto x = random_text(2, seq);
    const auto want =
        torch::conv1d(torch::constant_pad_nd(x.transpose(1, 2), {GetParam() - 1, 0}),
                      weight_.unsqueeze(1), at::Tensor(), 1, at::IntArrayRef{0}, 1, kChannels);
    EXPECT_TRUE(close(conv(x, Positions::range(0, seq)).out, want.transpose(1, 2), 1e-5));
  }
}

TEST_P(ShortConvKernels, ContinuesFromItsTail) {
  const auto x = random_text(2, 11);
  const auto whole = conv(x, Positions::range(0, 11));
  at::Tensor tail;
  int64_t first = 0;
  for (const int64_t count : {1, 1, 5, 4}) {
    const auto part = conv(x.narrow(1, first, count), Positions::range(first, count), tail);
    EXPECT_TRUE(close(part.out, whole.out.narrow(1, first, count), 1e-6));
    tail = part.tail;
    first += count;
  }
  EXPECT_TRUE(torch::equal(tail, whole.tail));
}

TEST_P(ShortConvKernels, TailEndsWithTheLastRealToken) {
  const auto x = random_text(3, 6);
  const auto tail = random_text(3, GetParam() - 1);
  const auto got = conv(x, Positions::ragged({{4, 6}, {4, 2}, {4, 0}}), tail).tail;
  EXPECT_TRUE(torch::equal(got[2], tail[2]));
  const auto alone =
      conv(x[1].narrow(0, 0, 2).unsqueeze(0), Positions::range(4, 2), tail.narrow(0, 1, 1));
  EXPECT_TRUE(torch::equal(got[1], alone.tail[0]));
}

TEST_P(ShortConvKernels, DoesNotReachIntoAnotherDocument) {
  const auto x = random_text(1, 9);
  std::vector<at::Tensor> alone, at, segments;
  int64_t first = 0;
  for (const int64_t count : {1, 5, 1, 2}) {
    alone.push_back(conv(x.narrow(1, first, count), Positions::range(0, count)).out);
    at.push_back(torch::arange(count, torch::kLong));
    segments.push_back(torch::full({count}, first, torch::kInt));
    first += count;
  }
  const auto packed =
      Positions::packed(torch::cat(at).unsqueeze(0), torch::cat(segments).unsqueeze(0));
  EXPECT_TRUE(close(conv(x, packed).out, torch::cat(alone, 1), 1e-6));
}

INSTANTIATE_TEST_SUITE_P(Kernels, ShortConvKernels, ::testing::Values(1, 2, 4));

}  // namespace
}  // namespace kvsmith
