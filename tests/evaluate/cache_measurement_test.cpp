#include "evaluate/cache_measurement.h"

#include <gtest/gtest.h>

#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

TEST(TellingLengths, StandAroundWindowsAndNoneIsBeyondWhatIsWorthMeasuring) {
  const auto of = [](int64_t window, int64_t context) {
    const KvGraph graph(tiny_model(2, [&](ModelConfig& c) {
      c.layer_types = {"sliding", "full"};
      c.max_position_embeddings = 1 << 16;
      c.sliding_window = window;
      c.num_sink_tokens = 4;
    }));
    return telling_lengths(graph, context);
  };
  EXPECT_EQ(of(16, 64), (std::vector<int64_t>{15, 16, 17, 20, 21, 64, 256}));
  EXPECT_EQ(of(16, 4096), (std::vector<int64_t>{15, 16, 17, 20, 21, 4096, 8192}));
  EXPECT_EQ(of(16'384, 4096), (std::vector<int64_t>{4096, 8192}));
  EXPECT_EQ(of(16, 32'768), (std::vector<int64_t>{15, 16, 17, 20, 21, 32'768}));
}

}  // namespace
}  // namespace kvsmith
