#include <memory>

#include "checkpoints/adapter_source.h"
#include "checkpoints/model_source.h"
#include "checkpoints/store.h"
#include "checkpoints/tokenizer_file.h"
#include "configs/run_config.h"
#include "core/error.h"
#include "core/files.h"
#include "core/text.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTokenizer = "tokenizer.model";

/// Configuration and tensors; the tokenizer is not among the latter.
ModelSource source_of(const std::shared_ptr<const SafetensorsFile>& file,
                      const ModelConfig& config) {
  ModelSource out;
  out.config = config;
  for (const auto& [name, info] : file->tensors())
    if (name != kTokenizer) out.tensors[name] = {info.shape, dtype_of(info.dtype, name)};
  out.read = [file](const std::string& name) { return load_tensor(*file, *file->find(name)); };
  return out;
}

/// What the run of an adapter began from, with the adapter in it.
ModelSource adapted_source(const std::shared_ptr<const SafetensorsFile>& file,
                           const RunConfig& config,
                           const CheckpointInfo& info) {
  const fs::path base = config.train.init_from;
  const std::string place = (info.path / "config.toml").string() + ": train.init_from";
  if (!fs::exists(base)) {
    throw Error(ExitCode::kMissingInput,
                {cat("an adapter of ", base.string(), ", which is not there"), place,
                 "paths are relative to the working directory: go where it is found"});
  }
  ModelSource source = open_model(base);
  if (fingerprint(source) != info.state.value("base", std::string())) {
    throw Error(ExitCode::kConfig,
                {cat(base.string(), " has other weights than those that were adapted"), place,
                 "give the model that the run began from its place back"});
  }
  return with_adapter(std::move(source), file, config.lora, info.path / "model.safetensors");
}

}  // namespace

TensorShapes shapes_of(const ModelSource& source) {
  TensorShapes out;
  for (const auto& [name, tensor] : source.tensors) out[name] = tensor.shape;
  return out;
}

ModelSource open_checkpoint(const fs::path& directory) {
  const CheckpointInfo info = inspect_checkpoint(directory, true);
  if (!info.complete)
    throw Error(ExitCode::kBadData,
                {info.problem, directory.string(), "choose another checkpoint"});
  const fs::path path = directory / "config.toml";
  const RunConfig config = parse_run_config(read_file(path), path.string());
  const auto file = std::make_shared<const SafetensorsFile>(directory / "model.safetensors");
  ModelSource out =
      config.lora.rank > 0 ? adapted_source(file, config, info) : source_of(file, config.model);
  out.tokenizer = read_tokenizer(directory);
  const fs::path place = fs::canonical(directory);
  out.name = (info.state.contains("trainer") ? place.parent_path() : place).filename().string();
  out.path = directory;
  out.step = info.step;
  out.bos_id = info.state.value("bos_id", out.bos_id);
  out.eos_id = info.state.value("eos_id", out.eos_id);
  out.end_ids = info.state.value("end_ids", out.end_ids);
  if (info.state.contains("trainer"))
    out.tokens_seen = info.state.at("trainer").at("tokens").get<int64_t>();
  return out;
}

ModelSource open_single_file(const fs::path& path) {
  const auto file = std::make_shared<const SafetensorsFile>(path);
  const auto config = file->metadata().find("kvsmith.config");
  if (config == file->metadata().end()) {
    throw Error(ExitCode::kBadData, {"a safetensors file without a model configuration",
                                     path.string(), "give the folder with its config.json"});
  }
  ModelSource out = source_of(file, parse_run_config(config->second, path.string()).model);
  if (const TensorInfo* info = file->find(kTokenizer)) {
    out.tokenizer.resize(info->bytes);
    file->read(*info, out.tokenizer.data());
  }
  out.name = path.stem().string();
  out.path = path;
  return out;
}

}  // namespace kvsmith
