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

/// Writes tensors in the order given, one at a time on the host. Returns the SHA-256 of the file.
/// Throws Error (80) naming the tensor when a value is not finite: a poisoned checkpoint is never
/// published.
std::string save_tensors(const std::filesystem::path& path,
                         const NamedTensors& tensors,
                         const std::map<std::string, std::string>& metadata);

/// One tensor of a safetensors file, in its stored type.
at::Tensor load_tensor(const SafetensorsFile& file, const TensorInfo& info);

/// Where a tensor of a given name is found; null when nowhere.
using TensorSource = std::function<at::Tensor(const std::string& name)>;

/// Copies into every tensor of `destination` the one of the same name from `available` (name to
/// shape; read by `source`), converting the type. Throws Error (78) listing all that is missing,
/// surplus or of another shape before anything is copied; `where` names the source.
void copy_into(const NamedTensors& destination,
               const std::map<std::string, std::vector<int64_t>>& available,
               const TensorSource& source,
               const std::string& where);

/// The same from one safetensors file. Names in `ignored` may be present without being wanted.
void load_into(const NamedTensors& destination,
               const SafetensorsFile& file,
               const std::vector<std::string>& ignored = {});

/// "F32", "BF16" ... as safetensors names types.
std::string dtype_name(at::ScalarType type);
at::ScalarType dtype_of(const std::string& name, const std::string& where);

}  // namespace kvsmith
