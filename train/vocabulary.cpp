#include "train/vocabulary.h"

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {

void expect_same_vocabulary(const LoadedModel& other,
                            int64_t vocab_size,
                            const std::string& tokenizer_sha256,
                            const std::string& where) {
  const auto refuse = [&](const std::string& what) {
    throw Error(ExitCode::kConfig,
                {what, where, "build the corpus with the tokenizer of the checkpoint"});
  };
  const int64_t theirs = other.model->config().vocab_size;
  if (theirs != vocab_size) refuse(cat("has ", theirs, " token ids, the model ", vocab_size));
  if (other.tokenizer && !tokenizer_sha256.empty() &&
      other.tokenizer->sha256() != tokenizer_sha256) {
    refuse(cat("has the tokenizer ", other.tokenizer->sha256(), ", the corpus ", tokenizer_sha256,
               " (SHA-256)"));
  }
}

}  // namespace kvsmith
