#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "checkpoints/tensor_file.h"
#include "configs/model_config.h"
#include "models/decoder.h"

namespace kvsmith {

/// A model in a file of some format, read one tensor at a time, so that no more than one tensor
/// need be in memory. Names, row order and conventions are ours whatever the format's are. The
/// functions that open one read configuration and headers, and throw Error 65 or 66 for what is
/// damaged or missing, 78 for what is not supported.
struct ModelSource {
  struct Tensor {
    std::vector<int64_t> shape;
    at::ScalarType type = at::kFloat;  ///< of what `read` returns; quantised blocks come as fp32
  };

  ModelConfig config;  ///< complete (fill_in)
  std::map<std::string, Tensor> tensors;
  TensorSource read;              ///< by name, on the host
  std::string tokenizer;          ///< its file's bytes; empty: none
  std::string tokenizer_problem;  ///< why there is none, where there is a file
  int32_t bos_id = -1, eos_id = -1;
  std::vector<int32_t> end_ids;       ///< further tokens that end a text, such as a turn's end
  std::string name;                   ///< of the run, folder or file, for reports
  std::filesystem::path path;         ///< what is read
  int64_t step = 0, tokens_seen = 0;  ///< 0 where unknown
};

TensorShapes shapes_of(const ModelSource& source);

struct LoadedModel;
/// A model without weights: what `source` says besides them. Throws Error (78) where its tokenizer
/// has more pieces than the model has token ids.
LoadedModel described(const ModelSource& source);

/// Opens whatever `load_model` reads.
ModelSource open_model(const std::filesystem::path& path);

/// Opens a checkpoint directory after comparing every file with its SHA-256.
ModelSource open_checkpoint(const std::filesystem::path& directory);
/// Opens a single safetensors file made by `export --format kvsmith`.
ModelSource open_single_file(const std::filesystem::path& path);

/// Opens a folder in Hugging Face layout or that of the LCKV authors (safetensors, one file or
/// sharded).
ModelSource open_hf_folder(const std::filesystem::path& folder);

}  // namespace kvsmith
