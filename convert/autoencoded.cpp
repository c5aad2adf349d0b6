#include "convert/autoencoded.h"

#include <tuple>

#include <torch/types.h>

namespace kvsmith {
namespace {

/// The `count` principal components of what `heads` project: [head_dim, count].
at::Tensor components(const std::vector<at::Tensor>& heads,
                      const at::Tensor& input_moments,
                      int64_t count) {
  at::Tensor covariance = torch::zeros({heads[0].size(1), heads[0].size(1)}, torch::kDouble);
  for (const auto& head : heads)
    covariance += torch::matmul(head.t(), torch::matmul(input_moments, head));
  const auto vectors = std::get<1>(torch::linalg_eigh(covariance));
  return vectors.narrow(1, vectors.size(1) - count, count);
}

}  // namespace

void fit_linear_coders(const ModelConfig& config,
                       const std::string& name,
                       int64_t layer,
                       const std::map<int64_t, std::vector<at::Tensor>>& keys,
                       const std::map<int64_t, std::vector<at::Tensor>>& values,
                       const Moments& moments,
                       std::map<std::string, at::Tensor>& out) {
  if (config.autoencoder.autoencoder_kind != "linear") return;
  const auto fit = [&](const char* stream, const auto& all) {
    const auto heads = all.find(layer);
    if (heads == all.end()) return;
    const auto basis =
        components(heads->second, moments.between(layer, layer), config.autoencoder.autoencoder_dim)
            .to(torch::kFloat);
    out[name + stream + "_encoder.out_proj.weight"] = basis.t().contiguous();
    out[name + stream + "_decoder.out_proj.weight"] = basis.contiguous();
  };
  fit("k", keys);
  fit("v", values);
}

}  // namespace kvsmith
