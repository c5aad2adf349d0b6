#include "cache/noise.h"

#include <bit>
#include <vector>

#include <torch/types.h>

#include "core/random.h"

namespace kvsmith {
namespace {

constexpr int64_t signed_of(uint64_t bits) { return std::bit_cast<int64_t>(bits); }

/// x ^ (x >> bits), the shift without the sign.
at::Tensor folded(const at::Tensor& x, int64_t bits) {
  const auto shifted = x.bitwise_right_shift(bits).bitwise_and_(signed_of(~uint64_t{0} >> bits));
  return shifted.bitwise_xor_(x);
}

}  // namespace

at::Tensor head_keys(int64_t seed, std::string_view purpose, int64_t layer, int64_t heads) {
  std::vector<int64_t> keys;
  for (int64_t head = 0; head < heads; ++head)
    keys.push_back(signed_of(hash_of(static_cast<uint64_t>(seed), purpose,
                                     static_cast<uint64_t>(layer), static_cast<uint64_t>(head))));
  return torch::tensor(keys, torch::kLong);
}

at::Tensor mixed(const at::Tensor& key, const at::Tensor& counter) {
  // odd constants: the golden ratio, and those of SplitMix64
  auto x = counter * signed_of(0x9E3779B97F4A7C15) + key;
  x = folded(x, 30).mul_(signed_of(0xBF58476D1CE4E5B9));
  x = folded(x, 27).mul_(signed_of(0x94D049BB133111EB));
  return folded(x, 31);
}

at::Tensor uniform_of(const at::Tensor& key, const at::Tensor& counter) {
  constexpr double kStep = 1.0 / (1 << 24);
  const auto bits = mixed(key, counter).bitwise_and_((1 << 24) - 1).to(torch::kFloat);
  // fp32 has no room for half a step beneath 1
  return bits.add_(0.5).mul_(kStep).clamp_(kStep / 2, 1 - kStep);
}

at::Tensor gumbel_of(const at::Tensor& key, const at::Tensor& counter) {
  return uniform_of(key, counter).log_().neg_().log_().neg_();
}

}  // namespace kvsmith
