#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "data/corpus.h"

namespace kvsmith {

/// What is needed to read token files, which do not say it themselves.
struct TokenFileOptions {
  int64_t vocab_size = 0;
  int32_t bos_id = -1, eos_id = -1;  ///< of document borders; -1: not known
};

/// Token ids written by another toolkit:
///
///   llm.c     .bin with magic 20240520 (version 1, uint16) or 20240801 (version 7, uint32)
///   Megatron  .bin with an .idx beside it; either may be named
///   nanoGPT   any other .bin: uint16 without a header
///
/// All little-endian. Megatron's documents are those of its index. In the other formats a document
/// begins at each bos_id, or ends at each eos_id where there is no bos_id; without either, and
/// where it gets longer than 2^20 tokens, the file is cut every 2^20 tokens.
///
/// Errors (65) name the file and the place: sizes that contradict the header, unknown versions and
/// types, ids outside the vocabulary.
class TokenFile {
 public:
  /// Whether the name says so: .bin or .idx.
  static bool is_named_by(const std::filesystem::path& path);

  TokenFile(const std::filesystem::path& path, const TokenFileOptions& options);
  ~TokenFile();
  TokenFile(const TokenFile&) = delete;
  TokenFile& operator=(const TokenFile&) = delete;

  /// The next document that is not empty; false at the end.
  bool next(std::vector<int32_t>& document);
  /// "llm.c", "Megatron" or "nanoGPT".
  const std::string& format() const;
  /// The .bin file and, for Megatron, the .idx.
  std::vector<CorpusSource> sources() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvsmith
