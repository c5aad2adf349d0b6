#include "checkpoints/adapter_source.h"

#include <set>
#include <utility>

#include <torch/types.h>

#include "checkpoints/tensor_file.h"
#include "configs/run_config.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/text.h"
#include "models/low_rank.h"
#include "ops/layers.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse(const std::string& what, const fs::path& where) {
  throw Error(ExitCode::kBadData, {what, where.string(), "the adapter is damaged"});
}

/// What of a resolved configuration shapes what is computed.
ModelConfig computed(ModelConfig config) {
  const ModelConfig usual;
  config.pattern = usual.pattern;  // the lists that it stands for are there
  config.initializer_range = usual.initializer_range;
  return config;
}

/// The two matrices that adapt a tensor, checked against it.
void expect_fit(const SafetensorsFile& file,
                const std::string& name,
                const ModelSource::Tensor& tensor,
                int64_t rank,
                const fs::path& where) {
  const auto [down, up] = adapter_names(name);
  const auto expect = [&](const std::string& part, const std::vector<int64_t>& shape) {
    const TensorInfo* info = file.find(part);
    if (!info) refuse(cat(part, " is missing"), where);
    if (info->shape != shape)
      refuse(cat(part, " is ", shape_text(info->shape), ", expected ", shape_text(shape)), where);
  };
  expect(down, {rank, tensor.shape.at(1)});
  expect(up, {tensor.shape.at(0), rank});
}

}  // namespace

std::string fingerprint(const ModelSource& source) {
  Sha256 hash;
  for (const auto& [name, info] : source.tensors) {
    const auto tensor = source.read(name).cpu().contiguous();
    hash.update(name.data(), name.size());
    hash.update(tensor.const_data_ptr(), tensor.nbytes());
  }
  return hash.hex();
}

std::string fingerprint(const std::string& weights, const ModelConfig& config) {
  return sha256(weights + to_toml(run_config_of(computed(config))));
}

void expect_same_model(const ModelConfig& config,
                       const ModelConfig& base,
                       const std::string& where) {
  if (computed(config) == computed(base)) return;
  std::string text;
  for (const auto& d :
       differences(run_config_of(computed(base)), run_config_of(computed(config)), /*all=*/true))
    text += cat("\n  ", d.key, ": ", d.before, " -> ", d.after);
  throw Error(ExitCode::kConfig,
              {"an adapter runs as the model that it adapts, and this one is another:" + text,
               where, "`kvsmith convert` the base, or train it, as it should be"});
}

ModelSource with_adapter(ModelSource base,
                         const std::shared_ptr<const SafetensorsFile>& file,
                         const LoraConfig& config,
                         const fs::path& where) {
  std::set<std::string> adapted, unused;
  for (const auto& [name, info] : file->tensors()) unused.insert(name);
  for (auto& [name, tensor] : base.tensors) {
    if (!name.ends_with(".weight")) continue;
    const auto [down, up] = adapter_names(name);
    if (!file->find(down) && !file->find(up)) continue;
    expect_fit(*file, name, tensor, config.rank, where);
    unused.erase(down);
    unused.erase(up);
    tensor.type = at::kFloat;
    adapted.insert(name);
  }
  if (!unused.empty()) refuse(*unused.begin() + " adapts nothing that the model has", where);
  base.read = [read = base.read, file, adapted = std::move(adapted),
               scale = config.scale()](const std::string& name) {
    auto tensor = read(name);
    if (!adapted.contains(name)) return tensor;
    const auto [down, up] = adapter_names(name);
    return tensor.to(torch::kFloat) + low_rank_product(load_tensor(*file, *file->find(down)),
                                                       load_tensor(*file, *file->find(up)), scale);
  };
  return base;
}

}  // namespace kvsmith
