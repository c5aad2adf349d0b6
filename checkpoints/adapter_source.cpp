#include "checkpoints/adapter_source.h"

#include <set>
#include <utility>

#include <torch/types.h>

#include "checkpoints/tensor_file.h"
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
