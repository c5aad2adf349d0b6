#include "cache/kivi_rows.h"

#include <cmath>

#include <torch/types.h>

#include "tests/support/allocations.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

constexpr int64_t kHeads = 2, kKeyWidth = 6, kValueWidth = 16;
/// Small groups, so that short texts have many.
constexpr KiviOptions kSmall = {
    .bits_k = 2, .bits_v = 4, .group = 8, .residual = 16, .quantise_before_attend = true};

struct Text {
  at::Tensor keys, values;  ///< [batch, kHeads, tokens, width]

  std::vector<at::Tensor> part(int64_t first, int64_t count) const {
    return {keys.narrow(2, first, count), values.narrow(2, first, count)};
  }
  Text sequence(int64_t b) const { return {keys.narrow(0, b, 1), values.narrow(0, b, 1)}; }
};

Text random_text(int64_t tokens, int64_t batch = 1) {
  torch::manual_seed(tokens + batch);
  Text text{torch::randn({batch, kHeads, tokens, kKeyWidth}),
            torch::randn({batch, kHeads, tokens, kValueWidth})};
  text.keys.select(3, 1).mul_(20).add_(7);  // a channel of outliers, for which keys are grouped so
  return text;
}

void write(KiviRows& memory, const Text& text, int64_t first, int64_t count) {
  memory.write(Positions::range(first, count), text.part(first, count));
}

void expect_equal(const Rows& got, const Rows& want, const std::string& what) {
  ASSERT_EQ(got.streams.size(), want.streams.size()) << what;
  for (size_t i = 0; i < got.streams.size(); ++i)
    EXPECT_TRUE(got.streams[i].equal(want.streams[i])) << what << ", stream " << i;
  EXPECT_TRUE(got.positions.at().equal(want.positions.at())) << what;
}

/// |x - x'| - bound of min-max codes of `bits` bits whose groups are along `dim`.
double excess(const at::Tensor& got, const at::Tensor& want, int64_t dim, int64_t bits) {
  const auto levels = static_cast<double>((1 << bits) - 1);
  const auto x = want.to(torch::kDouble);
  const auto zero = x.amin(dim, true), scale = (x.amax(dim, true) - zero) / levels;
  const auto bound = scale / 2 + (zero.abs() + levels * scale) * 0x1p-11;
  return ((got.to(torch::kDouble) - x).abs() - bound).max().item<double>();
}

TEST(KiviRows, KeepsTheResidualExactAndTheRestWithinBounds) {
  const int64_t group = kSmall.group, residual = kSmall.residual;
  for (const int64_t tokens : {1, 7, 8, 15, 16, 17, 31, 32, 33, 37, 69}) {
    const auto text = random_text(tokens);
    KiviRows memory({}, kSmall);
    write(memory, text, 0, tokens);
    const Rows rows = memory.read();
    EXPECT_TRUE(rows.positions.is_range());
    ASSERT_EQ(rows.positions.seq(), tokens);
    const int64_t keys = tokens - tokens % residual;
    const int64_t values = std::max<int64_t>(0, tokens - residual);
    const auto exact = [&](int64_t stream, int64_t first) {
      const auto all = text.part(0, tokens)[static_cast<size_t>(stream)];
      return rows.streams[static_cast<size_t>(stream)]
          .narrow(2, first, tokens - first)
          .equal(all.narrow(2, first, tokens - first));
    };
    EXPECT_TRUE(exact(0, keys)) << tokens;
    EXPECT_TRUE(exact(1, values)) << tokens;
    if (keys > 0) {
      const auto by_group = [&](const at::Tensor& x) {
        return x.narrow(2, 0, keys).unflatten(2, {-1, group});
      };
      EXPECT_LE(excess(by_group(rows.streams[0]), by_group(text.keys), 3, kSmall.bits_k), 0)
          << tokens;
      EXPECT_FALSE(exact(0, 0)) << tokens;
    }
    if (values > 0) {
      const auto by_group = [&](const at::Tensor& x) {
        return x.narrow(2, 0, values).unflatten(3, {-1, group});
      };
      EXPECT_LE(excess(by_group(rows.streams[1]), by_group(text.values), 4, kSmall.bits_v), 0)
          << tokens;
      EXPECT_FALSE(exact(1, 0)) << tokens;
    }
  }
}

TEST(KiviRows, StoresTheSameHoweverATextIsSplit) {
  constexpr int64_t kTokens = 83;
  const auto text = random_text(kTokens);
  for (const int64_t tokens : {15L, 16L, 17L, 31L, 32L, 33L, kTokens}) {
    KiviRows whole({}, kSmall);
    write(whole, text, 0, tokens);
    for (const int64_t chunk : {1, 3, 15, 16, 17, 40}) {
      for (const bool quantise_before : {true, false}) {
        auto options = kSmall;
        options.quantise_before_attend = quantise_before;
        KiviRows parts({.growth_rows = 5}, options);
        for (int64_t first = 0; first < tokens; first += chunk)
          write(parts, text, first, std::min(chunk, tokens - first));
        expect_equal(parts.read(), whole.read(),
                     std::to_string(tokens) + " by " + std::to_string(chunk));
        EXPECT_EQ(parts.bytes_used(), whole.bytes_used());
      }
    }
  }
}

TEST(KiviRows, LongResidualIsExact) {
  const auto text = random_text(48);
  auto options = kSmall;
  options.residual = 64;
  KiviRows memory({}, options);
  for (int64_t first = 0; first < 48; first += 6) write(memory, text, first, 6);
  expect_equal(memory.read(), {text.part(0, 48), Positions::range(0, 48)}, "exact");
}

TEST(KiviRows, BytesAreThoseOfTheFormula) {
  for (const auto type : {torch::kFloat, torch::kBFloat16}) {
    for (const auto& [bits_k, bits_v] : {std::pair{2, 2}, {2, 4}, {4, 2}, {8, 4}}) {
      auto options = kSmall;
      options.bits_k = bits_k;
      options.bits_v = bits_v;
      const auto text = random_text(85, 3);
      KiviRows memory({.batch = 3, .growth_rows = 20}, options);
      EXPECT_EQ(memory.bytes_used(), 0);
      for (int64_t tokens = 1; tokens <= 85; ++tokens) {
        auto fresh = text.part(tokens - 1, 1);
        for (auto& stream : fresh) stream = stream.to(type);
        memory.write(Positions::range(tokens - 1, 1), fresh);
        const auto element = static_cast<int64_t>(c10::elementSize(type));
        ASSERT_EQ(memory.bytes_used(),
                  3 * kivi_bytes(options, kHeads, kKeyWidth, kValueWidth, tokens, element))
            << tokens;
        EXPECT_GE(memory.bytes_reserved(), memory.bytes_used());
      }
    }
  }
}

// 12 layers of 4 heads of width 64.
TEST(KiviRows, FormulaGivesTheKnownTotals) {
  const struct {
    int64_t bits, residual, of_100, of_2000, of_2048;
  } table[] = {
      {2, 128, 1'228'800, 5'646'336, 5'357'568},
      {4, 128, 1'228'800, 8'558'592, 8'404'992},
      {2, 32, 410'112, 4'847'616, 4'878'336},
  };
  for (const auto& [bits, residual, of_100, of_2000, of_2048] : table) {
    KiviOptions options;
    options.bits_k = options.bits_v = bits;
    options.residual = residual;
    EXPECT_EQ(12 * kivi_bytes(options, 4, 64, 64, 100, 2), of_100);
    EXPECT_EQ(12 * kivi_bytes(options, 4, 64, 64, 2000, 2), of_2000);
    EXPECT_EQ(12 * kivi_bytes(options, 4, 64, 64, 2048, 2), of_2048);
  }
}

TEST(KiviRows, ReservesWhatTheAllocatorGives) {
  const auto text = random_text(100, 2);
  const AllocationCounter counter;
  KiviRows memory({.batch = 2, .initial_rows = 40, .growth_rows = 32}, kSmall);
  for (const auto& [first, count] : {std::pair{0, 10}, {10, 50}, {60, 40}}) {
    write(memory, text, first, count);
    EXPECT_EQ(memory.bytes_reserved(), counter.live_bytes()) << first;
  }
  const int64_t before = memory.bytes_reserved();
  memory.clear();
  EXPECT_EQ(memory.bytes_used(), 0);
  EXPECT_TRUE(memory.read().empty());
  write(memory, text, 0, 100);
  EXPECT_EQ(memory.bytes_reserved(), before);
}

TEST(KiviRows, SequencesOfABatchDoNotMeet) {
  const auto text = random_text(60, 3);
  // lengths after each write; the second leaves one sequence as it is, the last makes all equal
  const std::vector<std::vector<int64_t>> lengths = {{5, 20, 33}, {5, 40, 34}, {60, 60, 60}};
  KiviRows together({.batch = 3}, kSmall);
  std::vector<KiviRows> alone(3, KiviRows({}, kSmall));
  std::vector<int64_t> at = {0, 0, 0};
  for (const auto& ends : lengths) {
    std::vector<Span> spans;
    int64_t longest = 0;
    for (size_t b = 0; b < 3; ++b) {
      spans.push_back({at[b], ends[b] - at[b]});
      longest = std::max(longest, spans[b].count);
    }
    std::vector<at::Tensor> fresh = {torch::full({3, kHeads, longest, kKeyWidth}, NAN),
                                     torch::full({3, kHeads, longest, kValueWidth}, NAN)};
    for (int64_t b = 0; b < 3; ++b) {
      const Span& span = spans[static_cast<size_t>(b)];
      const auto own = text.sequence(b).part(span.first, span.count);
      for (size_t i = 0; i < 2; ++i)
        fresh[i].narrow(0, b, 1).narrow(2, 0, span.count).copy_(own[i]);
      if (span.count > 0)
        write(alone[static_cast<size_t>(b)], text.sequence(b), span.first, span.count);
    }
    together.write(Positions::ragged(spans), fresh);
    const Rows rows = together.read();
    int64_t bytes = 0;
    for (int64_t b = 0; b < 3; ++b) {
      const auto& own = alone[static_cast<size_t>(b)];
      const Rows want = own.read();
      const int64_t length = ends[static_cast<size_t>(b)];
      for (size_t i = 0; i < 2; ++i) {
        const auto row = rows.streams[i].narrow(0, b, 1);
        EXPECT_TRUE(row.narrow(2, 0, length).equal(want.streams[i])) << b << " at " << length;
        EXPECT_TRUE(row.narrow(2, length, row.size(2) - length).eq(0).all().item<bool>()) << b;
      }
      EXPECT_EQ(rows.positions.span(b), (Span{0, length}));
      bytes += own.bytes_used();
    }
    EXPECT_EQ(together.bytes_used(), bytes);
    at = ends;
  }
  EXPECT_TRUE(together.read().positions.is_range());
  KiviRows at_once({.batch = 3}, kSmall);
  write(at_once, text, 0, 60);
  expect_equal(together.read(), at_once.read(), "ragged and not");
}

TEST(KiviRows, NewTokensAttendToWhatIsStoredOrToThemselvesAsTheyAre) {
  const auto text = random_text(60);
  auto faithful = kSmall;
  faithful.quantise_before_attend = false;
  KiviRows on({}, kSmall), off({}, faithful);
  for (const auto& [first, count] : {std::pair{0, 50}, {50, 1}, {51, 9}}) {
    const Rows before = off.read();
    const Rows stored = on.write(Positions::range(first, count), text.part(first, count));
    const Rows seen = off.write(Positions::range(first, count), text.part(first, count));
    expect_equal(stored, on.read(), "on");
    expect_equal(off.read(), on.read(), "the same is stored");
    expect_equal(seen, joined(before, Positions::range(first, count), text.part(first, count)),
                 "off");
  }
  // the first prompt of a faithful cache is exact
  KiviRows prompt({}, faithful);
  expect_equal(prompt.write(Positions::range(0, 60), text.part(0, 60)),
               {text.part(0, 60), Positions::range(0, 60)}, "prompt");
}

TEST(KiviRows, MoreBitsAreCloser) {
  const auto text = random_text(64);
  double last = INFINITY;
  for (const int64_t bits : {2, 4, 8}) {
    auto options = kSmall;
    options.bits_k = options.bits_v = bits;
    KiviRows memory({}, options);
    write(memory, text, 0, 64);
    const Rows rows = memory.read();
    const double error = (rows.streams[0] - text.keys).norm().item<double>() +
                         (rows.streams[1] - text.values).norm().item<double>();
    EXPECT_GT(error, 0);
    EXPECT_LT(error * 3, last) << bits;
    last = error;
  }
}

TEST(KiviRows, LayersMayKeepKeysOrValuesOnly) {
  const auto text = random_text(37);
  KiviRows both({}, kSmall);
  write(both, text, 0, 37);
  for (const size_t kept : {0, 1}) {
    KiviRows memory({}, kSmall);
    for (int64_t t = 0; t < 37; ++t) {
      auto fresh = text.part(t, 1);
      fresh[1 - kept].reset();
      memory.write(Positions::range(t, 1), fresh);
    }
    const Rows rows = memory.read();
    EXPECT_TRUE(rows.streams[kept].equal(both.read().streams[kept]));
    EXPECT_FALSE(rows.streams[1 - kept].defined());
    EXPECT_EQ(memory.bytes_used(), kivi_bytes(kSmall, kHeads, kept == 0 ? kKeyWidth : 0,
                                              kept == 1 ? kValueWidth : 0, 37, 4));
  }
}

TEST(KiviRows, GoesBackWithinTheResidual) {
  const auto text = random_text(80), other = random_text(81);
  KiviRows memory({}, kSmall);
  write(memory, text, 0, 44);
  memory.rewind(Positions::range(36, 1));  // keys are quantised up to 32, values up to 28
  EXPECT_EQ(memory.read().positions.seq(), 36);
  const int64_t heads = kHeads, missing = 44 - 36;
  EXPECT_EQ(memory.bytes_used(), kivi_bytes(kSmall, kHeads, kKeyWidth, kValueWidth, 44, 4) -
                                     missing * heads * (kKeyWidth + kValueWidth) * 4);
  // writing rewinds by itself
  write(memory, other, 34, 40);
  KiviRows straight({}, kSmall);
  write(straight, text, 0, 34);
  write(straight, other, 34, 40);
  expect_equal(memory.read(), straight.read(), "after a change of mind");
  EXPECT_EQ(memory.bytes_used(), straight.bytes_used());

  expect_error([&] { memory.rewind(Positions::range(57, 1)); }, ExitCode::kInternal,
               "cannot be taken back");
  expect_error([&] { write(memory, text, 63, 2); }, ExitCode::kInternal,
               "position 63 after 74 tokens, 64 of them quantised");
  EXPECT_EQ(memory.read().positions.seq(), 74);
}

TEST(KiviRows, CopiesGoOnByThemselves) {
  const auto text = random_text(70), other = random_text(71);
  KiviRows memory({}, kSmall);
  write(memory, text, 0, 40);
  const Rows before = memory.read();
  const auto copy = memory.clone();
  auto& fork = dynamic_cast<KiviRows&>(*copy);
  expect_equal(fork.read(), before, "copy");
  EXPECT_EQ(fork.bytes_used(), memory.bytes_used());
  EXPECT_EQ(fork.bytes_reserved(), memory.bytes_reserved());
  write(fork, other, 40, 30);
  fork.clear();
  write(fork, other, 0, 40);
  expect_equal(memory.read(), before, "original");
}

TEST(KiviRows, ResultsHaveTheTypeOfWhatIsWritten) {
  const auto text = random_text(40);
  KiviRows wide({}, kSmall), narrow({}, kSmall);
  auto fresh = text.part(0, 40);
  for (auto& stream : fresh) stream = stream.to(torch::kBFloat16);
  const Rows got = narrow.write(Positions::range(0, 40), fresh);
  for (auto& stream : fresh) stream = stream.to(torch::kFloat);
  const Rows want = wide.write(Positions::range(0, 40), fresh);
  for (size_t i = 0; i < 2; ++i)
    EXPECT_TRUE(got.streams[i].equal(want.streams[i].to(torch::kBFloat16))) << i;
}

TEST(KiviRows, NanStaysInItsGroup) {
  auto text = random_text(48);
  text.keys[0][1][9][3] = NAN;
  text.values[0][1][2][5] = NAN;
  KiviRows memory({}, kSmall);
  write(memory, text, 0, 48);
  const Rows rows = memory.read();
  const auto keys = rows.streams[0].isnan(), values = rows.streams[1].isnan();
  EXPECT_EQ(keys.sum().item<int64_t>(), 8);
  EXPECT_TRUE(keys[0][1].narrow(0, 8, 8).select(1, 3).all().item<bool>());
  EXPECT_EQ(values.sum().item<int64_t>(), 8);
  EXPECT_TRUE(values[0][1][2].narrow(0, 0, 8).all().item<bool>());
}

TEST(KiviRows, RefusesWhatItCannotDo) {
  const auto needs = [](int64_t bits, int64_t group, int64_t residual, int64_t width) {
    return kivi_needs({.bits_k = bits,
                       .bits_v = 8,
                       .group = group,
                       .residual = residual,
                       .quantise_before_attend = true},
                      width);
  };
  EXPECT_EQ(kivi_needs({}, 64), "");
  EXPECT_EQ(needs(3, 32, 128, 64), "2, 4 or 8 bits, not 3");
  EXPECT_EQ(needs(2, 6, 12, 12), "groups of a multiple of 4 elements, not 6");
  EXPECT_EQ(needs(4, 32, 48, 64), "a residual of a multiple of 32 tokens, not 48");
  EXPECT_EQ(needs(4, 32, 0, 64), "a residual of a multiple of 32 tokens, not 0");
  EXPECT_EQ(needs(4, 32, 64, 80), "values of a multiple of 32 elements, not 80");
  auto bad = kSmall;
  bad.residual = 12;
  expect_error([&] { KiviRows({}, bad); }, ExitCode::kConfig, "KIVI needs a residual");

  const auto text = random_text(4, 2);
  KiviRows memory({}, kSmall);
  expect_error([&] { write(memory, text, 0, 4); }, ExitCode::kInternal, "another batch");
  expect_error([&] { write(memory, text.sequence(0), 2, 2); }, ExitCode::kInternal,
               "position 2 after 0 tokens");
  expect_error([&] { memory.write(Positions::range(0, 1), {text.keys.narrow(0, 0, 1)}); },
               ExitCode::kInternal, "1 streams");
  expect_error([&] { memory.write(Positions::range(0, 4), {at::Tensor(), text.sequence(0).keys}); },
               ExitCode::kInternal, "values of a multiple of 8 elements, not 6");
}

}  // namespace
}  // namespace kvsmith
