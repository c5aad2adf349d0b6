#include "checkpoints/tensor_file.h"

#include <algorithm>
#include <array>
#include <set>

#include <torch/types.h>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

constexpr std::array<std::pair<const char*, at::ScalarType>, 8> kTypes = {{
    {"F32", at::kFloat},
    {"BF16", at::kBFloat16},
    {"F16", at::kHalf},
    {"F64", at::kDouble},
    {"I64", at::kLong},
    {"I32", at::kInt},
    {"U8", at::kByte},
    {"BOOL", at::kBool},
}};

/// Piece by piece, because isfinite() makes copies.
bool is_finite(const at::Tensor& tensor) {
  constexpr int64_t kPiece = 1 << 22;
  return std::ranges::all_of(tensor.flatten().split(kPiece), [](const at::Tensor& piece) {
    return torch::isfinite(piece).all().item<bool>();
  });
}

}  // namespace

std::string dtype_name(at::ScalarType type) {
  for (const auto& [name, value] : kTypes) {
    if (value == type) return name;
  }
  throw Error(ExitCode::kInternal, {"a tensor type that is not stored", c10::toString(type), ""});
}

at::ScalarType dtype_of(const std::string& name, const std::string& where) {
  for (const auto& [known, value] : kTypes) {
    if (known == name) return value;
  }
  throw Error(ExitCode::kBadData, {"tensor type " + name + " is not supported", where,
                                   "convert it to F32, F16 or BF16 first"});
}

std::string save_tensors(const std::filesystem::path& path,
                         std::vector<TensorInfo> tensors,
                         const TensorSource& source,
                         const std::map<std::string, std::string>& metadata) {
  std::vector<std::string> names;
  for (const auto& info : tensors) names.push_back(info.name);
  SafetensorsWriter writer(path, std::move(tensors), metadata);
  for (const auto& name : names) {
    const auto host = source(name).detach().cpu().contiguous();
    if (host.is_floating_point() && !is_finite(host)) {
      throw Error(ExitCode::kNumerical, {"tensor " + name + " holds values that are not finite",
                                         path.string(), "resume from an earlier checkpoint"});
    }
    writer.write(name, host.data_ptr(), host.nbytes());
  }
  return writer.commit();
}

std::string save_tensors(const std::filesystem::path& path,
                         const NamedTensors& tensors,
                         const std::map<std::string, std::string>& metadata) {
  std::vector<TensorInfo> infos;
  std::map<std::string, at::Tensor> by_name;
  for (const auto& [name, tensor] : tensors) {
    infos.push_back(tensor_info(name, tensor.scalar_type(), tensor.sizes().vec()));
    by_name[name] = tensor;
  }
  return save_tensors(
      path, std::move(infos), [&](const std::string& name) { return by_name.at(name); }, metadata);
}

TensorInfo tensor_info(std::string name, at::ScalarType type, std::vector<int64_t> shape) {
  TensorInfo info;
  info.name = std::move(name);
  info.dtype = dtype_name(type);
  info.shape = std::move(shape);
  return info;
}

at::Tensor load_tensor(const SafetensorsFile& file, const TensorInfo& info) {
  auto tensor = torch::empty(info.shape, dtype_of(info.dtype, info.name));
  file.read(info, tensor.data_ptr());
  return tensor;
}

void expect_shapes(const NamedTensors& wanted,
                   const TensorShapes& available,
                   const std::string& where) {
  std::vector<std::string> problems;
  std::set<std::string> names;
  for (const auto& [name, tensor] : wanted) {
    names.insert(name);
    const auto found = available.find(name);
    if (found == available.end()) {
      problems.push_back("missing " + name);
    } else if (found->second != tensor.sizes().vec()) {
      problems.push_back(cat(name, " is ", shape_text(found->second), ", expected ",
                             shape_text(tensor.sizes().vec())));
    }
  }
  for (const auto& [name, shape] : available) {
    if (!names.contains(name)) problems.push_back("surplus " + name);
  }
  if (!problems.empty()) {
    throw Error(ExitCode::kConfig,
                {"the tensors are not those of the model: " + join(problems, "; "), where,
                 "is this the checkpoint of another configuration?"});
  }
}

void copy_into(const NamedTensors& destination,
               const TensorShapes& available,
               const TensorSource& source,
               const std::string& where) {
  expect_shapes(destination, available, where);
  const torch::NoGradGuard no_grad;
  for (const auto& [name, tensor] : destination) at::Tensor(tensor).copy_(source(name));
}

void load_into(const NamedTensors& destination, const SafetensorsFile& file) {
  TensorShapes available;
  for (const auto& [name, info] : file.tensors()) available[name] = info.shape;
  copy_into(
      destination, available,
      [&](const std::string& name) { return load_tensor(file, *file.find(name)); },
      file.path().string());
}

}  // namespace kvsmith
