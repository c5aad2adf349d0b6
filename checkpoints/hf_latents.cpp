#include "checkpoints/hf_latents.h"

#include <cmath>
#include <string_view>

#include <torch/types.h>

#include "checkpoints/mistral_large4.h"
#include "checkpoints/rotary_rows.h"
#include "core/text.h"
#include "models/mixers/latent.h"

namespace kvsmith {
namespace {

constexpr std::string_view kMaker = "kv_a_proj_with_mqa.weight", kNorm = "kv_a_layernorm.weight";

/// Of latents without norm. Their mean square is below half a unit in the last place of eps = 1e-6
/// (1e-9) as long as they are below 2^26 (2^21) on average; those of pretrained models are below
/// 2^10.
constexpr double kTiny = 0x1p-48;

at::Tensor scaled_latents(const at::Tensor& weight, double scale, const LatentConfig& sizes) {
  if (scale == 1) return weight;
  auto out = weight.clone();
  out.narrow(0, 0, sizes.kv_lora_rank).mul_(scale);
  return out;
}

}  // namespace

bool LatentForm::is_exact() const {
  constexpr double kPowerOfTwo = 0.5;
  int exponent = 0;
  return std::frexp(latent_scale, &exponent) == kPowerOfTwo;
}

LatentForm latent_form_of(const nlohmann::ordered_json& config, bool has_norm) {
  if (!config.contains("kv_lora_rank")) return {};
  LatentForm form{.is_interleaved = config.value("rope_interleave", true)};
  const bool has_own_eps = config.value("model_type", "") != mistral_large4::kModelType;
  const double eps = has_own_eps ? kLatentEps : config.at("rms_norm_eps").get<double>();
  form.latent_scale = has_norm ? std::sqrt(eps / kLatentEps) : kTiny;
  form.norm_weight = has_norm ? 0 : std::sqrt(eps) / kTiny;
  return form;
}

bool is_latent_norm(const std::string& name) { return name.ends_with(kNorm); }

bool stands_for_no_norm(const at::Tensor& weight, const nlohmann::ordered_json& config) {
  const double value = latent_form_of(config, /*has_norm=*/false).norm_weight;
  return torch::equal(weight, torch::full_like(weight, value));
}

NamedTensors to_latent_form(const NamedTensors& tensors,
                            const LatentForm& form,
                            const LatentConfig& sizes) {
  NamedTensors out;
  for (const auto& [name, tensor] : tensors) {
    const auto rows = form.is_interleaved ? to_interleaved_rows(name, tensor, sizes) : tensor;
    const bool makes_latents = name.ends_with(kMaker);
    out.emplace_back(name, makes_latents ? scaled_latents(rows, form.latent_scale, sizes) : rows);
    if (makes_latents && form.norm_weight != 0) {
      const std::string mixer = name.substr(0, name.size() - kMaker.size());
      out.emplace_back(cat(mixer, kNorm), torch::full({sizes.kv_lora_rank}, form.norm_weight,
                                                      tensor.options().requires_grad(false)));
    }
  }
  return out;
}

at::Tensor from_latent_form(const std::string& name,
                            const at::Tensor& tensor,
                            const LatentForm& form,
                            const LatentConfig& sizes) {
  const auto rows = form.is_interleaved ? from_interleaved_rows(name, tensor, sizes) : tensor;
  return name.ends_with(kMaker) ? scaled_latents(rows, 1 / form.latent_scale, sizes) : rows;
}

}  // namespace kvsmith
