#pragma once

#include <string>
#include <string_view>

#include "configs/model_config.h"
#include "core/gguf.h"

namespace kvsmith {

/// The configuration of a GGUF model of architecture `llama`, `deci`, `qwen2` or `qwen3`, complete
/// (fill_in), after docs/gguf.md in github.com/ggml-org/ggml. Throws Error 78 naming the key when
/// something else is needed to compute what llama.cpp computes: another architecture, scaled
/// rotations, experts, any key of the architecture that is not known here; 65 for impossible
/// values.
ModelConfig from_gguf_config(const GgufFile& file);

/// The reverse, without tokenizer and file type. Throws Error (78) saying why when none of the
/// architectures holds the model.
GgufMetadata to_gguf_config(const ModelConfig& config, const std::string& name);

/// The configuration as from_gguf_config() gives it back: numbers are stored as float32.
ModelConfig rounded_for_gguf(ModelConfig config);

/// Rows of queries and keys are in interleaved pairs; see rotary_rows.h.
bool has_interleaved_heads(std::string_view gguf_architecture);

/// The name in GGUF files of a tensor of ours ("blk.0.attn_q.weight"); empty: none.
std::string gguf_name_of(const std::string& name);
/// The reverse.
std::string name_of_gguf(const std::string& gguf_name);

}  // namespace kvsmith
