#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "core/safetensors.h"

namespace kvsmith {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;
/// The tensor of a given name.
using TensorSource = std::function<at::Tensor(const std::string& name)>;

/// Writes tensors in the order given, one at a time on the host. Returns the SHA-256 of the file.
/// Throws Error (80) naming the tensor when a value is not finite: a poisoned checkpoint is never
/// published.
std::string save_tensors(const std::filesystem::path& path,
                         const NamedTensors& tensors,
                         const std::map<std::string, std::string>& metadata);

/// The same for tensors that are read when their turn comes: name, dtype and shape in the order of
/// the data.
std::string save_tensors(const std::filesystem::path& path,
                         std::vector<TensorInfo> tensors,
                         const TensorSource& source,
                         const std::map<std::string, std::string>& metadata);

/// A tensor that is to be saved.
TensorInfo tensor_info(std::string name, at::ScalarType type, std::vector<int64_t> shape);

/// One tensor of a safetensors file, in its stored type.
at::Tensor load_tensor(const SafetensorsFile& file, const TensorInfo& info);

/// Name to shape.
using TensorShapes = std::map<std::string, std::vector<int64_t>>;

/// Throws Error (78) listing all tensors of `wanted` that are not in `available`, and the reverse,
/// and those of another shape; `where` names the source.
void expect_shapes(const NamedTensors& wanted,
                   const TensorShapes& available,
                   const std::string& where);

/// Copies into every tensor of `destination` the one of the same name from `available`, which
/// `source` reads, converting the type. Throws as expect_shapes() before anything is copied.
void copy_into(const NamedTensors& destination,
               const TensorShapes& available,
               const TensorSource& source,
               const std::string& where);

/// The same from one safetensors file.
void load_into(const NamedTensors& destination, const SafetensorsFile& file);

/// "F32", "BF16" ... as safetensors names types.
std::string dtype_name(at::ScalarType type);
at::ScalarType dtype_of(const std::string& name, const std::string& where);

}  // namespace kvsmith
