#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace kvsmith {

/// One input of a corpus, for the record.
struct CorpusSource {
  std::string name;    ///< base name of the file
  uint64_t bytes = 0;  ///< size of the file
  std::string sha256;  ///< of the file
};

/// What is known about a corpus besides its tokens. Stored as attributes; docs/formats.md.
struct CorpusInfo {
  int64_t vocab_size = 0;
  int32_t bos_id = -1, eos_id = -1;
  std::string tokenizer_name;    ///< base name of the model file; empty for imported token files
  std::string tokenizer_sha256;  ///< empty for imported token files
  std::string tokenizer_model;   ///< the model file itself, so that a corpus is self-contained
  std::vector<CorpusSource> sources;
  bool marks_learnt = false;  ///< whether the file says of each token if it is to be learnt
  /// Documents 2i and 2i + 1 answer the same prompt, the first better; they are marked.
  bool holds_pairs = false;
};

/// One split of a corpus: documents one after the other, each as begin-of-text, its tokens,
/// end-of-text. Reads go through a cache of verified chunks. Safe to call from several threads.
class CorpusSplit {
 public:
  virtual ~CorpusSplit() = default;

  virtual uint64_t tokens() const = 0;
  virtual uint64_t documents() const = 0;
  /// Copies tokens [first, first + out.size()). Throws Error (65) naming dataset and chunk when a
  /// chunk fails its checksum.
  virtual void read(uint64_t first, std::span<int32_t> out) const = 0;
  /// Whether the corpus says of each token if it is to be learnt.
  virtual bool marks_learnt() const { return false; }
  /// For tokens [first, first + out.size()): 1 where a model is to learn to say it, else 0; all 1
  /// without marks. Throws as read().
  virtual void read_learnt(uint64_t /*first*/, std::span<uint8_t> out) const {
    std::ranges::fill(out, uint8_t{1});
  }
  /// Where document `i` starts; offset(documents()) == tokens().
  virtual uint64_t offset(uint64_t document) const = 0;
  /// Length of document `i` as UTF-8 text, in bytes; for bits per byte.
  virtual uint64_t text_bytes(uint64_t document) const = 0;
};

/// A tokenised corpus in an HDF5 file written by CorpusWriter. Opened read-only; the file is
/// refused (65) when anything in it is not of the documented schema (external storage, links,
/// foreign filters, other types) or a checksum fails.
class Corpus {
 public:
  static Corpus open(const std::filesystem::path& path);

  const CorpusInfo& info() const;
  /// SHA-256 over the stored chunk hashes and attributes: the identity of the data.
  const std::string& fingerprint() const;
  /// Names of the splits in the file, such as {"train", "valid"}.
  std::vector<std::string> splits() const;
  /// Throws Error (65) naming the splits there are when `name` is none of them.
  std::shared_ptr<const CorpusSplit> split(const std::string& name) const;
  /// Reads and checks every chunk of every dataset. Throws Error (65) at the first bad one.
  void verify() const;

 private:
  struct Impl;
  explicit Corpus(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

/// Streams documents into an HDF5 file that appears under its name only when finish() returns.
/// Memory: a few chunks per split and the ids of one call, whatever the size of corpus and
/// documents.
class CorpusWriter {
 public:
  /// Tokens are stored as uint16 when vocab_size <= 65,536, else as uint32.
  CorpusWriter(const std::filesystem::path& path, const CorpusInfo& info);
  ~CorpusWriter();
  CorpusWriter(const CorpusWriter&) = delete;
  CorpusWriter& operator=(const CorpusWriter&) = delete;

  /// The next ids of the split's current document, the first ones begin it; as stored, that is with
  /// begin- and end-of-text where the tokenizer has them. What was appended cannot be taken back.
  /// Throws Error (65) and adds none of them when one is outside the vocabulary.
  void append(const std::string& split, std::span<const int32_t> ids);
  /// The same of a corpus that marks what is to be learnt, which takes no tokens without: 0 or 1
  /// for each id.
  void append(const std::string& split,
              std::span<const int32_t> ids,
              std::span<const uint8_t> learnt);
  void end_document(const std::string& split, uint64_t text_bytes);
  /// A whole document: append() and end_document().
  void add_document(const std::string& split, std::span<const int32_t> ids, uint64_t text_bytes);
  void add_source(const CorpusSource& source);
  /// Writes indices and attributes, closes, reopens and verifies, publishes. Throws 65 for a corpus
  /// without tokens, 70 for a document without end.
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvsmith
