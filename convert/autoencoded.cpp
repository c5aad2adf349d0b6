#include "convert/autoencoded.h"

#include <algorithm>
#include <tuple>

#include <torch/types.h>

namespace kvsmith {

void fit_linear_coder(const std::string& stream,
                      const std::vector<at::Tensor>& heads,
                      const at::Tensor& norm,
                      const at::Tensor& input_moments,
                      int64_t count,
                      std::map<std::string, at::Tensor>& out) {
  const int64_t width = heads[0].size(1);
  at::Tensor covariance = torch::zeros({width, width}, torch::kDouble);
  for (const auto& head : heads) {
    auto own = torch::matmul(head.t(), torch::matmul(input_moments, head));
    if (norm.defined()) {
      const double size = std::max(own.diagonal().mean().item<double>(), 1e-300);
      own = own * torch::outer(norm, norm) / size;
    }
    covariance += own;
  }
  const auto vectors = std::get<1>(torch::linalg_eigh(covariance));  // eigenvalues ascend
  const auto basis = vectors.narrow(1, width - count, count).to(torch::kFloat);
  out[stream + "_encoder.out_proj.weight"] = basis.t().contiguous();
  out[stream + "_decoder.out_proj.weight"] = basis.contiguous();
}

}  // namespace kvsmith
