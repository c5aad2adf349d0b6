#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "data/corpus.h"
#include "data/hdf5.h"

namespace kvsmith {

/// The layout of a corpus file, shared by writer and reader; docs/formats.md, "Corpus (HDF5)".
constexpr const char* kCorpusSchema = "kvsmith.corpus";
constexpr int64_t kCorpusVersion = 1;
constexpr int64_t kMarkedVersion = 2;  ///< every split has kLearnt besides
constexpr int64_t kPairedVersion = 3;  ///< and its documents are pairs

constexpr const char* kTokens = "tokens";
constexpr const char* kLearnt = "learnt";
constexpr const char* kDocumentOffsets = "document_offsets";
constexpr const char* kDocumentBytes = "document_bytes";
constexpr const char* kTokenizerModel = "tokenizer";
constexpr const char* kSources = "sources";
constexpr const char* kHashSuffix = "_xxh3";

constexpr Hdf5Layout kLearntLayout{.type = Hdf5Type::kUint8, .chunk_rows = 65'536};
constexpr Hdf5Layout kIndexLayout{.type = Hdf5Type::kUint64, .chunk_rows = 8'192};
constexpr Hdf5Layout kBytesLayout{.type = Hdf5Type::kUint8, .chunk_rows = 16'384};
constexpr Hdf5Layout kHashLayout{.type = Hdf5Type::kUint64, .chunk_rows = 256, .columns = 2};
Hdf5Layout token_layout(int64_t vocab_size);

/// [a-z][a-z0-9_]*, at most 32 characters, and no name the schema uses itself.
bool is_split_name(const std::string& name);

using ChunkHashes = std::vector<std::array<uint64_t, 2>>;

/// What identifies the content of one dataset.
struct ColumnDigest {
  std::string path;
  Hdf5Type type = Hdf5Type::kUint8;
  uint64_t rows = 0;
  std::string hashes_sha256;  ///< of the little-endian bytes of its chunk hashes

  ColumnDigest(std::string path, Hdf5Type type, uint64_t rows, const ChunkHashes& hashes);
};

/// SHA-256 over a text with one line per attribute but "fingerprint" and one per column, sorted.
std::string corpus_fingerprint(const Hdf5Attributes& attributes, std::vector<ColumnDigest> columns);

Hdf5Attributes attributes_of(const CorpusInfo& info);  ///< without "fingerprint"
std::string sources_to_json(const std::vector<CorpusSource>& sources);
/// Throws Error (65) naming `where`.
std::vector<CorpusSource> sources_from_json(const std::string& text, const std::string& where);

}  // namespace kvsmith
