#pragma once

#include <filesystem>
#include <string>

namespace kvsmith {

/// A model's tokenizer is one file beside its weights: SentencePiece's tokenizer.model or Hugging
/// Face's tokenizer.json.

/// Its bytes; empty when the directory has neither.
std::string read_tokenizer(const std::filesystem::path& directory);

/// Writes it under the name that its format has; nothing when `bytes` is empty.
void write_tokenizer(const std::filesystem::path& directory, const std::string& bytes);

}  // namespace kvsmith
