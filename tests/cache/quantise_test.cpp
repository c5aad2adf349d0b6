#include "cache/quantise.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>
#include <torch/types.h>

namespace kvsmith {
namespace {

TEST(Quantise, PackingIsUndoneToTheBit) {
  for (const int64_t bits : {2, 4, 8}) {
    for (const int64_t dim : {1, 2, -1}) {
      torch::manual_seed(bits);
      const auto codes = torch::randint(1 << bits, {3, 8, 16}, torch::kFloat);
      const auto packed = pack(codes, dim, bits);
      EXPECT_EQ(packed.numel() * 8, codes.numel() * bits);
      auto back = torch::full_like(codes, NAN);
      unpack(packed, dim, bits, back);
      EXPECT_TRUE(back.equal(codes)) << bits << " bits along " << dim;
    }
  }
}

TEST(Quantise, CodesThatShareAByteAreFarApart) {
  const auto codes = torch::tensor({1, 2, 3, 4, 5, 6, 7, 8});
  EXPECT_TRUE(pack(codes, 0, 4).equal(torch::tensor({0x51, 0x62, 0x73, 0x84}, torch::kByte)));
  EXPECT_TRUE(pack(codes.remainder(4), 0, 2).equal(torch::tensor({0xDD, 0x22}, torch::kByte)));
}

// Of groups of 32 normal numbers; figures known of min-max quantisation.
TEST(Quantise, ErrorsAreThoseOfMinMax) {
  torch::manual_seed(1);
  const auto x = torch::randn({20000, 32});
  for (const auto& [bits, rms] : {std::pair{8, 0.0046}, {4, 0.078}, {2, 0.393}}) {
    auto made = min_max_codes(x, 1, bits);
    apply_min_max(made.codes, made.scale, made.zero);
    const double got = (made.codes - x).square().mean().sqrt().item<double>();
    EXPECT_NEAR(got, rms, rms * 0.015) << bits << " bits";
  }
}

TEST(Quantise, SpecialGroups) {
  const float inf = std::numeric_limits<float>::infinity(), nan = NAN;
  const auto x = torch::tensor({3.3F, 3.3F,  3.3F, 3.3F,  // constant
                                1.0F, nan,   2.0F, 3.0F,  //
                                inf,  1.0F,  0.0F, 2.0F,  //
                                -inf, 0.0F,  inf,  1.0F,  //
                                0.0F, 1e-9F, 0.0F, 0.0F})
                     .view({5, 4});
  auto made = min_max_codes(x, 1, 4);
  EXPECT_EQ(made.scale[0].item<float>(), 0);
  EXPECT_EQ(made.codes[0].sum().item<float>(), 0);
  EXPECT_EQ(made.codes[4].sum().item<float>(), 0) << "a range too small for fp16";
  auto back = made.codes.clone();
  apply_min_max(back, made.scale, made.zero);
  EXPECT_TRUE(
      back[0].eq(torch::tensor(3.3F).to(torch::kHalf).to(torch::kFloat)).all().item<bool>());
  EXPECT_TRUE(back[1].isnan().all().item<bool>());
  for (const int64_t row : {2, 3}) EXPECT_TRUE(back[row].isfinite().all().item<bool>());
  EXPECT_GE(back[2][0].item<float>(), 65504);
  EXPECT_LE(back[3][0].item<float>(), -65504);
  EXPECT_TRUE(made.codes.ge(0).logical_and(made.codes.le(15)).all().item<bool>());
}

TEST(Quantise, GroupsOfOneAreRoundedToHalf) {
  const auto x = torch::tensor({0.1F, -7.7F, 1e-7F}).view({3, 1});
  auto made = min_max_codes(x, 1, 2);
  apply_min_max(made.codes, made.scale, made.zero);
  EXPECT_TRUE(made.codes.sub(x).abs().le(x.abs() * 0x1p-11 + 0x1p-25).all().item<bool>());
}

}  // namespace
}  // namespace kvsmith
