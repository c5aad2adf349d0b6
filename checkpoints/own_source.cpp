#include <memory>

#include "checkpoints/adapter_source.h"
#include "checkpoints/own_checkpoint.h"
#include "checkpoints/tokenizer_file.h"
#include "core/error.h"
#include "core/files.h"
#include "core/json_node.h"
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
ModelSource adapted_source(const OwnCheckpoint& adapter) {
  const fs::path base = adapter.config.train.init_from, directory = adapter.info.path;
  const std::string place = (directory / "config.toml").string() + ": train.init_from";
  if (!fs::exists(base)) {
    throw Error(ExitCode::kMissingInput,
                {cat("an adapter of ", base.string(), ", which is not there"), place,
                 "paths are relative to the working directory: go where it is found"});
  }
  ModelSource source = open_model(base);
  if (fingerprint(source) != adapter.base()) {
    throw Error(ExitCode::kConfig,
                {cat(base.string(), " has other weights than those that were adapted"), place,
                 "give the model that the run began from its place back"});
  }
  expect_same_model(adapter.config.model, source.config, (directory / "config.toml").string());
  return with_adapter(std::move(source), adapter.tensors, adapter.config.lora,
                      directory / "model.safetensors");
}

/// What token_ids_json() wrote; nothing changes where `json` says nothing.
void read_token_ids(const nlohmann::ordered_json& json, ModelSource& model) {
  model.bos_id = json.value("bos_id", model.bos_id);
  model.eos_id = json.value("eos_id", model.eos_id);
  model.end_ids = json.value("end_ids", model.end_ids);
}

}  // namespace

nlohmann::ordered_json token_ids_json(int32_t bos_id,
                                      int32_t eos_id,
                                      const std::vector<int32_t>& end_ids) {
  return {{"bos_id", bos_id}, {"eos_id", eos_id}, {"end_ids", end_ids}};
}

TensorShapes shapes_of(const ModelSource& source) {
  TensorShapes out;
  for (const auto& [name, tensor] : source.tensors) out[name] = tensor.shape;
  return out;
}

std::optional<fs::path> own_checkpoint(const fs::path& path) {
  // a run in training moves its `latest`
  const auto followed = [](const fs::path& at) {
    const fs::path link = at.has_filename() ? at : at.parent_path();  // "run/latest/"
    return fs::is_symlink(link) ? link.parent_path() / fs::read_symlink(link) : at;
  };
  if (fs::exists(path / "manifest.json")) return followed(path);
  if (fs::exists(path / "latest")) return followed(path / "latest");
  return {};
}

OwnCheckpoint read_own_checkpoint(const fs::path& directory) {
  OwnCheckpoint out{inspect_checkpoint(directory, true), {}, {}};
  if (!out.info.complete)
    throw Error(ExitCode::kBadData,
                {out.info.problem, directory.string(), "choose another checkpoint"});
  const fs::path path = directory / "config.toml";
  out.config = parse_run_config(read_file(path), path.string());
  out.tensors = std::make_shared<const SafetensorsFile>(directory / "model.safetensors");
  return out;
}

OwnCheckpoint read_adapter_checkpoint(const fs::path& path) {
  if (!fs::exists(path))
    throw Error(ExitCode::kMissingInput, {"no such adapter", path.string(), "give its run"});
  if (const auto directory = own_checkpoint(path)) {
    auto checkpoint = read_own_checkpoint(*directory);
    if (checkpoint.config.lora.rank > 0) return checkpoint;
  }
  throw Error(ExitCode::kUsage,
              {"no adapter in it", path.string(), "give a run that was trained with lora.rank"});
}

void describe(ModelSource& model, const OwnCheckpoint& checkpoint) {
  const CheckpointInfo& info = checkpoint.info;
  const bool is_of_run = info.state.contains("trainer");
  const fs::path place = fs::canonical(info.path);
  model.tokenizer = read_tokenizer(info.path);
  model.name = (is_of_run ? place.parent_path() : place).filename().string();
  model.path = info.path;
  model.step = info.step;
  read_token_ids(info.state, model);
  if (is_of_run) model.tokens_seen = info.state.at("trainer").at("tokens").get<int64_t>();
}

ModelSource open_checkpoint(const fs::path& directory) {
  const OwnCheckpoint checkpoint = read_own_checkpoint(directory);
  ModelSource out = checkpoint.config.lora.rank > 0
                        ? adapted_source(checkpoint)
                        : source_of(checkpoint.tensors, checkpoint.config.model);
  describe(out, checkpoint);
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
  if (const auto ids = file->metadata().find(kTokenIds); ids != file->metadata().end()) {
    read_token_ids(parse_ordered_json(ids->second, 2, path.string()), out);
  }
  out.name = path.stem().string();
  out.path = path;
  return out;
}

}  // namespace kvsmith
