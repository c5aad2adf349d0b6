#pragma once

#include <filesystem>

#include "checkpoints/model_source.h"

namespace kvsmith {

/// Whether the file begins as GGUF files do.
bool is_gguf(const std::filesystem::path& path);

/// Opens a GGUF model of architecture `llama`, `deci`, `qwen2` or `qwen3`. Quantised tensors are
/// decoded to fp32 as they are read. Throws Error 65 or 66 for what is damaged or missing, 78 for
/// what is not supported; see core/gguf.h and gguf_config.h.
ModelSource open_gguf(const std::filesystem::path& path);

}  // namespace kvsmith
