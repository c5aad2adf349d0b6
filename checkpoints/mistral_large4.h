#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "checkpoints/tensor_file.h"
#include "configs/model_config.h"

/// MistralLarge4ForConditionalGeneration, the one class of Hugging Face transformers (5.23) in
/// which layers read latents of another layer. What it has beyond that is made neutral: a vision
/// part without layers, an indexer that selects every token, learned factors of rotations and
/// queries at their identity, a cap on logits that is too high to bend them.
namespace kvsmith::mistral_large4 {

inline constexpr const char* kModelType = "mistral_large4";

/// Why it cannot hold these `kv_source_layers`; empty: it can. A source has to be its own source
/// and, because the class remembers the rows of one layer, the last one below that has readers.
std::string sharing_obstacle(const std::vector<int64_t>& sources);

/// Its config.json of `text`, which is that of another class with latent layers.
nlohmann::ordered_json wrapped(nlohmann::ordered_json text, const ModelConfig& config);
/// The reverse: what it says of the text model, under that model type. Other configurations are
/// returned as they are.
nlohmann::ordered_json unwrapped(const nlohmann::ordered_json& json);

/// Reads the layers. Throws Error (78) naming a key that is not neutral.
void read_layers(const nlohmann::ordered_json& text, ModelConfig& config, const std::string& where);

/// The name of a tensor of ours there.
std::string name_of(const std::string& ours);
/// The reverse; empty for a tensor whose values cannot matter in a model that read_layers() took.
std::string our_name_of(const std::string& theirs);

/// The tensors that it has beyond ours.
NamedTensors neutral_tensors(const ModelConfig& config);

}  // namespace kvsmith::mistral_large4
