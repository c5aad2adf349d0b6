#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "checkpoints/export.h"
#include "core/ggml_blocks.h"

namespace kvsmith {

/// The types that export_gguf() writes, as users name them: "f32", "f16", "bf16", "q8_0", "q4_0".
std::vector<std::string> gguf_export_types();
/// Throws Error (64) for another name.
GgmlType gguf_export_type(const std::string& name);

/// Writes one GGUF file that llama.cpp runs, of architecture `llama`, `qwen2`, `qwen3` or, where
/// layers differ in their key/value heads, `deci`. Norms and biases are F32. With Q4_0 the matrix
/// that makes the logits is Q8_0, because it matters most (llama.cpp takes Q6_K where rows are a
/// multiple of 256, and else Q8_0); matrices whose rows are no whole blocks are F16. The file is
/// read back before it appears under `output`, and its logits must be those of the model with
/// weights rounded as in the file; the report has the difference to the model as it was. Throws
/// Error 78 for models that no architecture holds, 65 for a tokenizer that GGUF cannot express, 80
/// for weights that the type cannot hold, otherwise as export_hf().
ExportReport export_gguf(const LoadedModel& source,
                         const std::filesystem::path& output,
                         GgmlType type,
                         bool force);

}  // namespace kvsmith
