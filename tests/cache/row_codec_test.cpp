#include "cache/row_codec.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <set>

#include <torch/types.h>

#include "cache/codecs/codecs.h"
#include "core/ggml_blocks.h"
#include "tests/support/close.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

constexpr int64_t kWidths[] = {1, 2, 6, 32, 64, 80, 96, 128};

/// Half a unit in the last place of fp16.
at::Tensor half_rounding(const at::Tensor& x) { return (x.abs() * 0x1p-11).clamp_min(0x1p-25); }

/// How far x' may be from x, for each element. Both [rows, width] fp64.
using Bound = std::function<at::Tensor(const at::Tensor& x)>;

Bound relative(double of_value, double least) {
  return [=](const at::Tensor& x) { return (x.abs() * of_value).clamp_min(least); };
}

Bound min_max(double levels) {
  return [=](const at::Tensor& x) {
    const auto zero = x.amin(-1, true), scale = (x.amax(-1, true) - zero) / levels;
    return (scale / 2 + half_rounding(zero) + levels * half_rounding(scale)).expand_as(x);
  };
}

at::Tensor q8_0_bound(const at::Tensor& x) {
  const auto d = x.unflatten(-1, {-1, 32}).abs().amax(-1, true) / 127;
  return (d / 2 + 127 * half_rounding(d)).expand({-1, -1, 32}).flatten(-2);
}

/// Half a step, but up to a whole one where codes end at 7 and the largest magnitude is at -8.
at::Tensor q4_0_bound(const at::Tensor& x) {
  const auto blocks = x.unflatten(-1, {-1, 32});
  const auto d = blocks.gather(-1, blocks.abs().argmax(-1, true)) / -8;
  const auto steps = (blocks / d).nan_to_num(0).sub(7).clamp_min(0.5);
  return (d.abs() * steps + 8 * half_rounding(d)).flatten(-2);
}

const std::map<std::string, Bound> kBounds = {
    {"fp32", relative(0, 0)},
    {"bf16", relative(0x1p-8, 0x1p-134)},
    {"fp16", relative(0x1p-11, 0x1p-25)},
    {"fp8_e4m3", relative(0x1p-4, 0x1p-10)},
    {"int8", min_max(255)},
    {"int4", min_max(15)},
    {"int2", min_max(3)},
    {"q8_0", q8_0_bound},
    {"q4_0", q4_0_bound},
};

/// The definition: element (i, j) of each block is (-1)^(bits that i and j share) / sqrt(block).
at::Tensor hadamard_transform(const at::Tensor& x) {
  const int64_t width = x.size(-1), block = width & -width;
  auto matrix = torch::empty({block, block}, torch::kDouble);
  for (uint64_t i = 0; i < static_cast<uint64_t>(block); ++i)
    for (uint64_t j = 0; j < static_cast<uint64_t>(block); ++j)
      matrix[static_cast<int64_t>(i)][static_cast<int64_t>(j)] =
          (std::popcount(i & j) % 2 == 0 ? 1 : -1) / std::sqrt(static_cast<double>(block));
  return x.unflatten(-1, {-1, block}).matmul(matrix).flatten(-2);
}

bool is_hadamard(const std::string& name) { return name.starts_with("hadamard_"); }

/// Rows of many kinds that fit all codecs: [rows, width] fp32.
at::Tensor sample(int64_t width) {
  torch::manual_seed(width);
  const auto normal = torch::randn({40, width});
  auto outliers = normal.clone();
  outliers.select(1, width / 2).mul_(30).sub_(20);
  return torch::cat({normal, outliers, normal * 0.1 + 5, normal * 80, normal * 1e-6, normal * 1e-40,
                     torch::zeros({1, width}), torch::full({1, width}, 3.3),
                     torch::full({1, width}, -3.3), torch::full({1, width}, 1e-9), normal.abs(),
                     -normal.abs()});
}

/// Calls test(kind, codec, width) for each codec and each width that suits it.
template <class Test>
void for_each_case(const Test& test) {
  for (const auto& kind : row_codecs()) {
    int64_t widths = 0;
    for (const int64_t width : kWidths) {
      if (!kind.needs(width).empty()) continue;
      SCOPED_TRACE(kind.name + " of width " + std::to_string(width));
      test(kind, *kind.make(), width);
      ++widths;
    }
    EXPECT_GE(widths, 4) << kind.name;
  }
}

TEST(RowCodecs, ErrorsStayWithinTheirBounds) {
  for_each_case([](const RowCodecKind& kind, const RowCodec& codec, int64_t width) {
    const auto rows = sample(width);
    const auto back = codec.decode(codec.encode(rows), width, torch::kFloat);
    ASSERT_EQ(back.sizes(), rows.sizes());
    ASSERT_EQ(back.scalar_type(), torch::kFloat);
    const auto x = rows.to(torch::kDouble), error = (back.to(torch::kDouble) - x).abs();
    const auto name = is_hadamard(kind.name) ? kind.name.substr(9) : kind.name;
    ASSERT_TRUE(kBounds.contains(name)) << "give the bound of a new codec here";
    // the rest: sums and products in fp32
    const auto peak = x.abs().amax(-1, true) * 0x1p-22;
    if (!is_hadamard(kind.name)) {
      const auto over = error - kBounds.at(name)(x) - (name == "fp32" ? peak * 0 : peak);
      EXPECT_LE(over.max().item<double>(), 0) << "element " << over.argmax().item<int64_t>();
    } else {
      // the transform keeps lengths
      const auto bound = kBounds.at(name)(hadamard_transform(x)).norm(2, -1, true);
      const auto over = error.norm(2, -1, true) - bound - peak * static_cast<double>(width);
      EXPECT_LE(over.max().item<double>(), 0) << "row " << over.argmax().item<int64_t>();
    }
  });
}

// Of N(0, 1) with as many numbers as share a scale.
TEST(RowCodecs, RootMeanSquareErrorsAreTheKnownOnes) {
  torch::manual_seed(5);
  const auto rows = torch::randn({20000, 32});
  for (const auto& [name, rms] : std::vector<std::pair<std::string, double>>{
           {"int8", 0.0046}, {"int4", 0.078}, {"q4_0", 0.086}, {"hadamard_int4", 0.078}}) {
    const auto codec = row_codec(name).make();
    const auto back = codec->decode(codec->encode(rows), 32, torch::kFloat);
    EXPECT_NEAR((back - rows).square().mean().sqrt().item<double>(), rms, rms * 0.015) << name;
  }
}

TEST(RowCodecs, HadamardSpreadsAnOutlier) {
  torch::manual_seed(6);
  auto rows = torch::randn({4000, 64});
  rows.select(1, 3).mul_(40);
  const auto error = [&](const std::string& name) {
    const auto codec = row_codec(name).make();
    const auto back = codec->decode(codec->encode(rows), 64, torch::kFloat);
    return (back - rows).square().mean().item<double>();
  };
  EXPECT_LT(error("hadamard_int4") * 2, error("int4"));
  EXPECT_LT(error("hadamard_int8") * 2, error("int8"));
}

// Bytes of a key and a value of one head.
TEST(RowCodecs, BytesAreThoseOfTheFormats) {
  const struct {
    std::string k, v;
    int64_t of_32, of_64, of_128;
  } table[] = {
      {"fp32", "fp32", 256, 512, 1024},        {"fp16", "bf16", 128, 256, 512},
      {"fp8_e4m3", "fp8_e4m3", 64, 128, 256},  {"q8_0", "q8_0", 68, 136, 272},
      {"q8_0", "q4_0", 52, 104, 208},          {"q4_0", "hadamard_q4_0", 36, 72, 144},
      {"int8", "hadamard_int8", 72, 136, 264}, {"int4", "hadamard_int4", 40, 72, 136},
  };
  for (const auto& [k, v, of_32, of_64, of_128] : table) {
    const auto bytes = [&, &k = k, &v = v](int64_t width) {
      return row_codec(k).make()->row_bytes(width) + row_codec(v).make()->row_bytes(width);
    };
    EXPECT_EQ(bytes(32), of_32) << k << " " << v;
    EXPECT_EQ(bytes(64), of_64) << k << " " << v;
    EXPECT_EQ(bytes(128), of_128) << k << " " << v;
  }
  for_each_case([](const RowCodecKind&, const RowCodec& codec, int64_t width) {
    const auto bytes = codec.encode(sample(width));
    EXPECT_EQ(bytes.scalar_type(), torch::kByte);
    EXPECT_EQ(static_cast<int64_t>(bytes.storage().nbytes()),
              bytes.size(0) * codec.row_bytes(width));
    EXPECT_EQ(bytes.size(-1), codec.row_bytes(width));
  });
  EXPECT_EQ(row_codec("int4").make()->metadata_bytes(64), 4);
  EXPECT_EQ(row_codec("q8_0").make()->metadata_bytes(96), 6);
  EXPECT_EQ(row_codec("hadamard_q4_0").make()->metadata_bytes(96), 6);
  EXPECT_EQ(row_codec("fp8_e4m3").make()->metadata_bytes(64), 0);
}

TEST(RowCodecs, EachRowIsEncodedByItself) {
  for_each_case([](const RowCodecKind& kind, const RowCodec& codec, int64_t width) {
    const auto rows = sample(width);
    const auto bytes = codec.encode(rows);
    const auto back = codec.decode(bytes, width, torch::kFloat);
    // a product of matrices may sum in another order when there are fewer rows
    const double tolerance = is_hadamard(kind.name) ? 1e-6 : 0;
    for (const int64_t row : {0L, 41L, rows.size(0) - 1}) {
      const auto alone = codec.encode(rows[row]);
      if (tolerance == 0) {
        EXPECT_TRUE(alone.equal(bytes[row])) << row;
      }
      // out of storage with rows before and after, as caches have it
      const auto part = codec.decode(bytes.narrow(0, row, 1), width, torch::kFloat);
      const double peak = back[row].abs().max().item<double>();
      EXPECT_LE((part[0] - back[row]).abs().max().item<double>(), tolerance * peak) << row;
    }
    const auto shaped = rows.narrow(0, 0, 24).view({2, 3, 4, width});
    EXPECT_TRUE(codec.encode(shaped).flatten(0, 2).equal(codec.encode(rows.narrow(0, 0, 24))));
    // heads before tokens, as projections leave them
    EXPECT_TRUE(codec.encode(shaped.transpose(1, 2)).equal(codec.encode(shaped).transpose(1, 2)));
    const auto none = codec.encode(rows.narrow(0, 0, 0));
    EXPECT_EQ(codec.decode(none, width, torch::kFloat).sizes(), (at::IntArrayRef{0, width}));
  });
}

TEST(RowCodecs, TypesOfRowsAndOfResultsAreRoundedOnce) {
  for_each_case([](const RowCodecKind&, const RowCodec& codec, int64_t width) {
    const auto rows = sample(width).narrow(0, 0, 160);
    const auto exact = codec.decode(codec.encode(rows), width, torch::kFloat);
    for (const auto type : {torch::kBFloat16, torch::kHalf, torch::kDouble}) {
      EXPECT_TRUE(codec.decode(codec.encode(rows), width, type).equal(exact.to(type))) << type;
      const auto typed = rows.to(type);
      EXPECT_TRUE(codec.encode(typed).equal(codec.encode(typed.to(torch::kFloat)))) << type;
    }
  });
}

TEST(RowCodecs, StoredTypesComeBackAsViews) {
  for (const auto& [name, type] : std::vector<std::pair<std::string, at::ScalarType>>{
           {"fp32", torch::kFloat}, {"bf16", torch::kBFloat16}, {"fp16", torch::kHalf}}) {
    const auto rows = sample(6).to(type);
    const auto codec = row_codec(name).make();
    const auto bytes = codec->encode(rows);
    const auto back = codec->decode(bytes.narrow(0, 3, 5), 6, type);
    EXPECT_TRUE(back.equal(rows.narrow(0, 3, 5))) << name;
    EXPECT_EQ(back.data_ptr(), bytes[3].data_ptr()) << name;
  }
}

TEST(RowCodecs, NanStaysNanInItsRow) {
  for_each_case([](const RowCodecKind&, const RowCodec& codec, int64_t width) {
    auto rows = sample(width);
    const auto clean = codec.decode(codec.encode(rows), width, torch::kFloat);
    rows[7][width - 1] = NAN;
    const auto back = codec.decode(codec.encode(rows), width, torch::kFloat);
    EXPECT_TRUE(back[7][width - 1].isnan().item<bool>());
    EXPECT_TRUE(back.narrow(0, 0, 7).equal(clean.narrow(0, 0, 7)));
    EXPECT_TRUE(back.narrow(0, 8, 100).equal(clean.narrow(0, 8, 100)));
    rows[7].fill_(NAN);
    EXPECT_TRUE(
        codec.decode(codec.encode(rows), width, torch::kFloat)[7].isnan().all().item<bool>());
  });
}

TEST(RowCodecs, InfinitiesSaturate) {
  for_each_case([](const RowCodecKind& kind, const RowCodec& codec, int64_t width) {
    for (const double infinity : {INFINITY, -INFINITY}) {
      auto rows = sample(width).narrow(0, 0, 3);
      rows[1][width / 2] = infinity;
      const auto back = codec.decode(codec.encode(rows), width, torch::kFloat)[1];
      EXPECT_FALSE(back.isnan().any().item<bool>());
      EXPECT_EQ(back.abs().argmax().item<int64_t>(), width / 2);
      const double sign = infinity > 0 ? 1 : -1, got = back[width / 2].item<double>();
      EXPECT_GE(sign * got, kind.name == "fp8_e4m3" ? 448 : 58000);
      const bool keeps = kind.name == "fp32" || kind.name == "bf16" || kind.name == "fp16";
      EXPECT_EQ(std::isinf(got), keeps);
    }
    const auto all = torch::full({1, width}, INFINITY);
    EXPECT_FALSE(codec.decode(codec.encode(all), width, torch::kFloat).isnan().any().item<bool>());
  });
}

TEST(RowCodecs, ConstantRowsHaveScaleAndCodesOfZero) {
  for (const auto* name : {"int8", "int4"}) {
    const auto bytes = row_codec(name).make()->encode(torch::full({1, 64}, 0.5F));
    EXPECT_EQ(bytes.sum().item<int64_t>(), 0x38) << name << ": more than a zero point of 0x3800";
  }
}

TEST(RowCodecs, Fp8IsThatOfLibTorch) {
  const auto bytes = torch::arange(256, torch::kByte);
  const auto codec = row_codec("fp8_e4m3").make();
  for (const auto type : {torch::kFloat, torch::kHalf, torch::kBFloat16}) {
    const auto want = bytes.view(torch::kFloat8_e4m3fn).to(type);
    EXPECT_TRUE(codec->decode(bytes, 256, type).allclose(want, 0, 0, /*equal_nan=*/true)) << type;
  }
  const auto numbers = torch::cat({bytes.narrow(0, 0, 127), bytes.narrow(0, 128, 127)});
  EXPECT_TRUE(codec->encode(codec->decode(numbers, 254, torch::kFloat)).equal(numbers));
}

/// Rows of four blocks, with ties, blocks of zeros of either sign and scales that vanish in fp16.
at::Tensor rows_for_ggml() {
  torch::manual_seed(8);
  auto rows = torch::randn({64, 128});
  const auto count = torch::arange(32, torch::kFloat);
  const auto block = [&](int64_t row, int64_t index) {
    return rows[row].narrow(0, index * 32, 32);
  };
  block(0, 0).zero_();
  block(0, 1).fill_(-0.0F);
  block(0, 2).copy_(count / 2);
  block(0, 3).copy_((count - 16) / 2);
  block(1, 0).fill_(1e-9F);
  block(1, 1).zero_().select(0, 5).fill_(1e-40F);
  block(1, 2).copy_(count * 0x1p-20F);
  block(1, 3).copy_(count * 1e-42F);
  // largest 127: the scale is 1, and ratios are right at halves
  block(2, 0).copy_(count - 0.5F)[31] = 127;
  block(2, 1).copy_(0.5F - count)[31] = -127;
  block(2, 2).fill_(0.49999997F)[0] = 127;
  block(2, 3).fill_(-0.49999997F)[0] = 8;
  block(3, 0).fill_(6e4F);
  block(3, 1).copy_(torch::where(count.remainder(2).eq(0), 3.0F, -3.0F));
  block(3, 2).copy_(torch::where(count.remainder(2).eq(0), -3.0F, 3.0F));
  return rows;
}

TEST(RowCodecs, BlocksAreThoseOfGgmlToTheBit) {
  const auto rows = rows_for_ggml();
  const auto count = static_cast<uint64_t>(rows.numel());
  for (const auto& [name, type] : std::vector<std::pair<std::string, GgmlType>>{
           {"q8_0", GgmlType::kQ80}, {"q4_0", GgmlType::kQ40}}) {
    const auto codec = row_codec(name).make();
    auto want = torch::empty({64, codec->row_bytes(128)}, torch::kByte);
    encode_blocks(type, rows.const_data_ptr<float>(), count, want.mutable_data_ptr());
    const auto got = codec->encode(rows);
    for (int64_t row = 0; row < 64; ++row)
      EXPECT_TRUE(got[row].equal(want[row])) << name << " row " << row << "\n"
                                             << got[row] << want[row];
    auto values = torch::empty_like(rows);
    decode_blocks(type, want.const_data_ptr(), count, values.mutable_data_ptr<float>());
    EXPECT_TRUE(codec->decode(want, 128, torch::kFloat).equal(values)) << name;
  }
}

TEST(RowCodecs, HadamardLeavesProductsOfRowsAsTheyAre) {
  const auto codec = make_hadamard_rows(make_fp32_rows());
  for (const int64_t width : kWidths) {
    torch::manual_seed(width);
    const auto keys = torch::randn({60, width});
    const auto queries = torch::randn({50, width}) / std::sqrt(static_cast<double>(width));
    const auto stored = [&](const at::Tensor& x) { return codec->encode(x).view(torch::kFloat); };
    EXPECT_TRUE(close(stored(queries).matmul(stored(keys).t()), queries.matmul(keys.t()), 1e-5));
    EXPECT_TRUE(close(stored(keys), hadamard_transform(keys.to(torch::kDouble)), 2e-6)) << width;
    EXPECT_TRUE(close(codec->decode(codec->encode(keys), width, torch::kFloat), keys, 2e-6));
  }
}

TEST(RowCodecs, NamesAndWidths) {
  std::set<std::string> names;
  for (const auto& kind : row_codecs()) {
    EXPECT_TRUE(names.insert(kind.name).second) << kind.name;
    EXPECT_FALSE(kind.help.empty()) << kind.name;
    EXPECT_EQ(&row_codec(kind.name), &kind);
  }
  EXPECT_EQ(row_codec("int4").needs(33), "a multiple of 2");
  EXPECT_EQ(row_codec("hadamard_int4").needs(7), "a multiple of 2");
  EXPECT_EQ(row_codec("q8_0").needs(48), "a multiple of 32");
  EXPECT_EQ(row_codec("hadamard_q4_0").needs(31), "a multiple of 32");
  EXPECT_EQ(row_codec("fp8_e4m3").needs(7), "");
  expect_error([] { row_codec("q8"); }, ExitCode::kConfig, "did you mean \"q8_0\"?");
}

}  // namespace
}  // namespace kvsmith
