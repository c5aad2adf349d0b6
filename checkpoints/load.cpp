#include "checkpoints/load.h"

#include <algorithm>
#include <map>

#include <torch/types.h>

#include "checkpoints/hf_config.h"
#include "checkpoints/rotary_rows.h"
#include "checkpoints/store.h"
#include "checkpoints/tensor_file.h"
#include "configs/run_config.h"
#include "core/error.h"
#include "core/files.h"
#include "core/text.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr uint64_t kLargestJson = uint64_t{1} << 26;

Json read_json(const fs::path& path) {
  try {
    return Json::parse(read_file(path, kLargestJson));
  } catch (const Json::exception& error) {
    throw Error(ExitCode::kBadData, {error.what(), path.string(), "the file is damaged"});
  }
}

Decoder make(const ModelConfig& config, const LoadOptions& options) {
  const torch::NoGradGuard no_grad;
  Decoder model(config);
  model->to(options.type);
  model->set_compute_type(options.type);
  for (auto& parameter : model->parameters()) parameter.set_requires_grad(false);
  return model;
}

void take_tokenizer(LoadedModel& out, const fs::path& file) {
  if (!fs::exists(file)) return;
  out.tokenizer = Tokenizer::load(file);
  out.bos_id = out.tokenizer->bos_id();
  out.eos_id = out.tokenizer->eos_id();
}

LoadedModel load_checkpoint(const fs::path& path, const LoadOptions& options) {
  const CheckpointInfo info = inspect_checkpoint(path, true);
  if (!info.complete) {
    throw Error(ExitCode::kBadData, {info.problem, path.string(), "choose another checkpoint"});
  }
  const auto config =
      parse_run_config(read_file(path / "config.toml"), (path / "config.toml").string());
  LoadedModel out;
  out.path = path;
  out.model = make(config.model, options);
  load_into(named_parameters(*out.model), SafetensorsFile(path / "model.safetensors"));
  take_tokenizer(out, path / "tokenizer.model");
  out.step = info.step;
  out.tokens_seen = info.state.at("trainer").at("tokens").get<int64_t>();
  out.name = path.parent_path().filename().string();
  return out;
}

/// Files of a Hugging Face folder by tensor name.
std::map<std::string, fs::path> hf_shards(const fs::path& folder) {
  std::map<std::string, fs::path> out;
  const fs::path index = folder / "model.safetensors.index.json";
  if (!fs::exists(index)) {
    const fs::path single = folder / "model.safetensors";
    const SafetensorsFile file(single);
    for (const auto& [name, info] : file.tensors()) out[name] = single;
    return out;
  }
  const Json json = read_json(index);
  for (const auto& [name, file] : json.at("weight_map").items()) {
    const fs::path shard = file.get<std::string>();
    if (shard != shard.filename() || shard == "..") {
      throw Error(ExitCode::kBadData, {"shard name " + shard.string() + " is not a plain file name",
                                       index.string(), "the file is damaged or hostile"});
    }
    out[name] = folder / shard;
  }
  return out;
}

/// A token id of config.json: a number, the first of a list, or none.
std::optional<int32_t> id_of(const Json& json, const char* key) {
  Json value = json.value(key, Json());
  if (value.is_array() && !value.empty()) value = Json(value[0]);
  return value.is_number_integer() ? std::optional(value.get<int32_t>()) : std::nullopt;
}

LoadedModel load_hf(const fs::path& folder, const LoadOptions& options) {
  const Json json = read_json(folder / "config.json");
  LoadedModel out;
  ModelConfig config = from_hf_config(json, (folder / "config.json").string());
  std::map<fs::path, SafetensorsFile> files;
  std::map<std::string, std::vector<int64_t>> available;
  const auto shards = hf_shards(folder);
  bool has_sinks = false;
  for (const auto& [name, path] : shards) {
    if (config.tie_word_embeddings && name == kOutputMatrix)
      continue;  // some exporters store the alias as well
    const auto file = files.try_emplace(path, path).first;
    const TensorInfo* info = file->second.find(name);
    if (!info) {
      throw Error(ExitCode::kBadData,
                  {"tensor " + name + " is not in the shard that the index names", path.string(),
                   "download the folder again"});
    }
    if (name.ends_with("o_proj.bias")) {
      if (load_tensor(file->second, *info).any().item<bool>()) {
        throw Error(ExitCode::kConfig, {name + " is not zero, and output biases are not supported",
                                        folder.string(), ""});
      }
      continue;
    }
    if (name.ends_with(".self_attn.sinks")) {
      constexpr double kNoSink = -1e29;  // exporters write less where a model has none
      has_sinks |= load_tensor(file->second, *info).gt(kNoSink).any().item<bool>();
    }
    available[name] = info->shape;
  }
  if (config.attention_sink_logits && !has_sinks) {
    config.attention_sink_logits = false;
    std::erase_if(available, [](const auto& item) { return item.first.ends_with(".sinks"); });
  }
  out.model = make(config, options);
  const bool interleaved = has_interleaved_rotation(json);
  copy_into(
      named_parameters(*out.model), available,
      [&](const std::string& name) {
        const auto& file = files.at(shards.at(name));
        const auto tensor = load_tensor(file, *file.find(name));
        return interleaved ? from_interleaved_rows(name, tensor, config.latent) : tensor;
      },
      folder.string());
  take_tokenizer(out, folder / "tokenizer.model");
  out.bos_id = id_of(json, "bos_token_id").value_or(out.bos_id);
  out.eos_id = id_of(json, "eos_token_id").value_or(out.eos_id);
  out.name = folder.filename().string();
  out.path = folder;
  return out;
}

LoadedModel load_single_file(const fs::path& path, const LoadOptions& options) {
  const SafetensorsFile file(path);
  const auto& metadata = file.metadata();
  if (!metadata.contains("kvsmith.config")) {
    throw Error(ExitCode::kBadData, {"a safetensors file without a model configuration",
                                     path.string(), "give the folder with its config.json"});
  }
  LoadedModel out;
  const auto config = parse_run_config(metadata.at("kvsmith.config"), path.string());
  out.model = make(config.model, options);
  load_into(named_parameters(*out.model), file, {"tokenizer.model"});
  if (const TensorInfo* info = file.find("tokenizer.model")) {
    const auto bytes = load_tensor(file, *info);
    out.tokenizer = Tokenizer::from_bytes(
        {static_cast<const char*>(bytes.data_ptr()), bytes.nbytes()}, path.string());
    out.bos_id = out.tokenizer->bos_id();
    out.eos_id = out.tokenizer->eos_id();
  }
  out.name = path.stem().string();
  out.path = path;
  return out;
}

LoadedModel load_any(const fs::path& path, const LoadOptions& options) {
  if (!fs::exists(path)) {
    throw Error(ExitCode::kMissingInput,
                {"no such checkpoint", path.string(),
                 "give a run directory, a checkpoint, or an exported folder or file"});
  }
  if (fs::is_regular_file(path)) return load_single_file(path, options);
  if (fs::exists(path / "manifest.json")) return load_checkpoint(fs::canonical(path), options);
  if (fs::exists(path / "config.json")) return load_hf(fs::canonical(path), options);
  if (fs::exists(path / "latest")) return load_checkpoint(fs::canonical(path / "latest"), options);
  throw Error(ExitCode::kMissingInput, {"no checkpoint in this directory", path.string(),
                                        "train one, or give a step-... directory"});
}

}  // namespace

LoadedModel load_model(const fs::path& path, const LoadOptions& options) {
  LoadedModel out;
  try {
    out = load_any(path, options);
  } catch (const Json::exception& error) {  // a key of another type than expected
    throw Error(ExitCode::kBadData, {error.what(), path.string(), "the checkpoint is damaged"});
  }
  if (out.tokenizer && out.tokenizer->vocab_size() > out.model->config().vocab_size) {
    throw Error(ExitCode::kConfig,
                {cat("the tokenizer has ", out.tokenizer->vocab_size(), " pieces, the model ",
                     out.model->config().vocab_size, " token ids"),
                 path.string(), "is this the tokenizer of another model?"});
  }
  out.model->to(options.device);
  out.model->eval();
  return out;
}

}  // namespace kvsmith
