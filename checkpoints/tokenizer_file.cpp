#include "checkpoints/tokenizer_file.h"

#include "core/files.h"
#include "data/tokenizer.h"

namespace kvsmith {
namespace {

constexpr const char* kSentencePiece = "tokenizer.model";
constexpr const char* kJson = "tokenizer.json";

}  // namespace

std::string read_tokenizer(const std::filesystem::path& directory) {
  for (const char* name : {kSentencePiece, kJson})  // the second may need files beside it
    if (std::filesystem::exists(directory / name)) return Tokenizer::load(directory / name).bytes();
  return "";
}

void write_tokenizer(const std::filesystem::path& directory, const std::string& bytes) {
  if (bytes.empty()) return;
  write_file(directory / (bytes.starts_with('{') ? kJson : kSentencePiece), bytes);
}

}  // namespace kvsmith
