#include "core/pattern.h"

#include <vector>

#include <gtest/gtest.h>

namespace kvsmith {
namespace {

struct Fit {
  const char *pattern, *name;
  size_t distance;
};

TEST(Patterns, FitWholeNames) {
  for (const auto& [pattern, name, distance] : std::vector<Fit>{
           {"abc", "abc", 0},
           {"abc", "abcd", 1},
           {"", "", 0},
           {"", "ab", 2},
           {"*", "", 0},
           {"*", "anything.at.all", 0},
           {"a*", "abc", 0},
           {"*c", "abc", 0},
           {"*b", "abc", 1},
           {"a?c", "abc", 0},
           {"a?", "a", 1},
           {"?", "", 1},
           {"*.k_encoder.*", "layers.0.k_encoder.norm", 0},
           {"*.k_encodr.*", "layers.0.k_encoder.norm", 1},
           {"*.k_encoder.*", "layers.0.v_encoder.norm", 1},
           {"*.1.*.norm*", "layers.1.k_encoder.norm.weight", 0},
           {"*.1.*.norm*", "layers.2.k_encoder.norm.weight", 1},
           {"**a**b**", "xxaxxbxx", 0},
           {"a*b*c", "ac", 1},
       }) {
    EXPECT_EQ(distance_to_pattern(pattern, name), distance) << pattern << " on " << name;
  }
}

}  // namespace
}  // namespace kvsmith
