#include "checkpoints/model_directory.h"

#include <torch/types.h>

#include "checkpoints/output_directory.h"
#include "checkpoints/own_checkpoint.h"
#include "checkpoints/store.h"
#include "checkpoints/tokenizer_file.h"
#include "configs/run_config.h"
#include "core/files.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

/// What safetensors stores: widest elements first, so that all are aligned.
std::vector<TensorInfo> stored(const ModelSource& source, std::optional<at::ScalarType> type) {
  std::vector<TensorInfo> out;
  for (const auto& [name, tensor] : source.tensors)
    out.push_back(tensor_info(name, type.value_or(tensor.type), tensor.shape));
  sort_for_alignment(out);
  return out;
}

}  // namespace

void expect_model_output(const fs::path& output, bool force) {
  expect_output_directory(output, force, "manifest.json", "model");
}

void write_model(const ModelSource& source,
                 const fs::path& output,
                 bool force,
                 const nlohmann::ordered_json& origin,
                 std::optional<at::ScalarType> type) {
  expect_model_output(output, force);
  // only names and shapes are looked at: the memory of its parameters is never touched
  const Decoder model(source.config);
  expect_shapes(named_parameters(*model), shapes_of(source), source.path.string());

  AtomicDirectory directory(output);
  const fs::path& inside = directory.path();
  const auto read = [&](const std::string& name) {
    const auto tensor = source.read(name);
    return type ? tensor.to(*type) : tensor;
  };
  save_tensors(inside / "model.safetensors", stored(source, type), read, {{"format", "pt"}});
  write_file(inside / "config.toml", to_toml(run_config_of(source.config)));
  write_tokenizer(inside, source.tokenizer);
  nlohmann::ordered_json state = {{"origin", origin}};
  state.update(token_ids_json(source.bos_id, source.eos_id, source.end_ids));
  write_file(inside / "state.json", state.dump(2) + "\n");
  write_manifest(inside, source.step);
  directory.commit();
}

}  // namespace kvsmith
