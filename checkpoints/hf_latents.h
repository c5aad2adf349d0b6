#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "checkpoints/tensor_file.h"
#include "configs/latent_config.h"

namespace kvsmith {

/// How a class of Hugging Face transformers stores latent layers, where ours do it otherwise.
///
/// These classes norm every latent. A model without that norm (latent_norm = false) is stored with
/// latents so small that in fp32 their mean square c^2 adds nothing to the eps of the norm,
/// c / sqrt(c^2 + eps) = c / sqrt(eps), which the weight of the norm takes back. The scale is a
/// power of two, so no digit of a weight is lost. A norm whose eps is not ours, in MistralLarge4,
/// gets latents as many times larger as the root of its eps is.
struct LatentForm {
  bool is_interleaved = false;  ///< rotated rows, see rotary_rows.h
  double latent_scale = 1;      ///< of the rows that make latents
  double norm_weight = 0;       ///< each element of a norm that stands for none; 0: it is a norm

  /// Weights are not rounded.
  bool is_exact() const;
};

/// That of the class that `config` names; nothing differs where layers are not latent.
LatentForm latent_form_of(const nlohmann::ordered_json& config, bool has_norm);

/// The weight of a norm of latents.
bool is_latent_norm(const std::string& name);
/// Whether such a weight stands for no norm in a class that `config` names.
bool stands_for_no_norm(const at::Tensor& weight, const nlohmann::ordered_json& config);

/// The tensors of a model in that form.
NamedTensors to_latent_form(const NamedTensors& tensors,
                            const LatentForm& form,
                            const LatentConfig& sizes);
/// The reverse for one tensor; those of other names are returned unchanged.
at::Tensor from_latent_form(const std::string& name,
                            const at::Tensor& tensor,
                            const LatentForm& form,
                            const LatentConfig& sizes);

}  // namespace kvsmith
