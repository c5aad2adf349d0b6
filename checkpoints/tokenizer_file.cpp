#include "checkpoints/tokenizer_file.h"

#include "core/files.h"

namespace kvsmith {
namespace {

constexpr const char* kSentencePiece = "tokenizer.model";
constexpr const char* kJson = "tokenizer.json";

}  // namespace

std::string read_tokenizer(const std::filesystem::path& directory) {
  for (const char* name : {kSentencePiece, kJson})
    if (std::filesystem::exists(directory / name)) return read_file(directory / name);
  return "";
}

void write_tokenizer(const std::filesystem::path& directory, const std::string& bytes) {
  if (bytes.empty()) return;
  write_file(directory / (bytes.starts_with('{') ? kJson : kSentencePiece), bytes);
}

}  // namespace kvsmith
