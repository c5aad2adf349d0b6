#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace kvsmith {

struct TokenizerTraining {
  std::vector<std::string> inputs;  ///< as for `data build`; train on the training texts only
  std::string json_field = "text";
  int64_t vocab_size = 4096;
  uint64_t max_bytes = uint64_t{64} << 20;  ///< texts are sampled down to this; bounds memory
  uint64_t seed = 0;
  int threads = 0;  ///< 0: all cores
};

/// Trains a SentencePiece BPE model (byte fallback, identity normalisation, digits split, lossless)
/// and publishes it as `output`. Deterministic for given inputs and seed.
void train_tokenizer(const TokenizerTraining& options, const std::filesystem::path& output);

}  // namespace kvsmith
