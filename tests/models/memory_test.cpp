#include "models/memory.h"

#include <torch/types.h>

#include "tests/support/close.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

/// Rows whose value is their position, for one sequence of one head of width 1.
at::Tensor rows_at(int64_t first, int64_t count) {
  return torch::arange(first, first + count, torch::kFloat).view({1, 1, count, 1});
}

/// Remembered positions in ascending order, checked against the values stored beside them.
std::vector<int64_t> remembered(const Rows& rows) {
  std::vector<int64_t> out;
  if (rows.empty()) return out;
  for (int64_t i = 0; i < rows.positions.seq(); ++i) {
    const auto position = rows.positions.at()[0][i].item<int64_t>();
    if (position < 0) continue;
    EXPECT_EQ(rows.streams[0].flatten()[i].item<float>(), static_cast<float>(position));
    out.push_back(position);
  }
  std::ranges::sort(out);
  return out;
}

TEST(RingRows, HoldsSinksAndTheLastWindowWhateverTheChunks) {
  for (const auto& [window, sinks] :
       std::vector<std::pair<int64_t, int64_t>>{{4, 0}, {3, 2}, {1, 1}}) {
    for (const int64_t chunk : {1, 2, 3, 7, 11}) {
      RingRows ring({.growth_rows = 2}, window, sinks);
      for (int64_t first = 0; first < 22; first += chunk) {
        const int64_t end = first + chunk;
        const Rows seen = ring.write(Positions::range(first, chunk), {rows_at(first, chunk)});
        std::vector<int64_t> want, all;
        for (int64_t p = 0; p < end; ++p)
          if (p < sinks || p >= end - window) want.push_back(p);
        EXPECT_EQ(remembered(ring.read()), want) << window << "+" << sinks << " by " << chunk;
        // whoever is new must find its whole window
        all = remembered(seen);
        for (int64_t q = first; q < end; ++q)
          for (int64_t p = std::max<int64_t>(0, q - window + 1); p <= q; ++p)
            EXPECT_TRUE(std::ranges::find(all, p) != all.end()) << q << " needs " << p;
      }
      EXPECT_EQ(ring.bytes_used(), (window + sinks) * 4);
    }
  }
}

TEST(RingRows, StorageStaysWhereItIsOnceFull) {
  RingRows ring({}, 4, 1);
  ring.write(Positions::range(0, 9), {rows_at(0, 9)});
  const void* before = ring.read().streams[0].data_ptr();
  const int64_t bytes = ring.bytes_reserved();
  for (int64_t p = 9; p < 40; ++p) ring.write(Positions::range(p, 1), {rows_at(p, 1)});
  EXPECT_EQ(ring.read().streams[0].data_ptr(), before);
  EXPECT_EQ(ring.bytes_reserved(), bytes);
}

TEST(RingRows, TellsWhatTheNextTokenPushesOut) {
  RingRows ring({}, 3, 1);
  ring.write(Positions::range(0, 4), {rows_at(0, 4)});
  const auto gone = ring.displaced(Positions::range(4, 1));
  EXPECT_TRUE(gone.wanted.item<bool>());
  EXPECT_EQ(gone.streams[0].item<float>(), 1);
  RingRows short_text({}, 3, 1);
  short_text.write(Positions::range(0, 2), {rows_at(0, 2)});
  EXPECT_FALSE(short_text.displaced(Positions::range(2, 1)).wanted.item<bool>());
}

TEST(RingRows, GoesBackOnlyBeforeAnythingWasPushedOut) {
  RingRows ring({}, 4, 0);
  ring.write(Positions::range(0, 4), {rows_at(0, 4)});
  ring.rewind(Positions::range(2, 1));
  EXPECT_EQ(remembered(ring.read()), (std::vector<int64_t>{0, 1}));
  ring.write(Positions::range(2, 4), {rows_at(2, 4)});
  expect_error([&] { ring.rewind(Positions::range(5, 1)); }, ExitCode::kInternal,
               "cannot come back");
}

TEST(RingRows, ACopyHasNoStorageAheadOfItsRows) {
  RingRows ring({.initial_rows = 8, .growth_rows = 4}, 8, 1);
  ring.write(Positions::range(0, 5), {rows_at(0, 5)});
  RingRows copy = ring.copy();
  EXPECT_EQ(copy.bytes_reserved(), 5 * 4);
  for (int64_t p = 5; p < 12; ++p) copy.write(Positions::range(p, 1), {rows_at(p, 1)});
  EXPECT_EQ(remembered(copy.read()), (std::vector<int64_t>{0, 4, 5, 6, 7, 8, 9, 10, 11}));
  EXPECT_EQ(copy.bytes_reserved(), 9 * 4);
}

TEST(KvCache, AForkFromAnEarlierPositionHasNoStorageBeyondIt) {
  std::vector<std::unique_ptr<Memory>> layers;
  layers.push_back(
      std::make_unique<CachedRows>(CacheOptions{.initial_rows = 100, .growth_rows = 8}));
  layers.push_back(nullptr);
  KvCache cache(std::move(layers));
  cache.rows_of(0).write(Positions::range(0, 90), {rows_at(0, 90)});
  auto fork = cache.fork(20);
  EXPECT_EQ(remembered(fork.rows_of(0).read()).size(), 20);
  EXPECT_EQ(fork.bytes_reserved(), 20 * 4);
  fork.rows_of(0).write(Positions::range(20, 1), {rows_at(20, 1)});
  EXPECT_EQ(remembered(fork.rows_of(0).read()).size(), 21);
  EXPECT_EQ(fork.bytes_reserved(), 24 * 4);  // whole steps of growth
  EXPECT_EQ(remembered(cache.rows_of(0).read()).size(), 90);
  EXPECT_EQ(cache.fork(95).bytes_reserved(), 90 * 4);
}

}  // namespace
}  // namespace kvsmith
