#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/corpus.h"
#include "data/word_border.h"

namespace kvsmith {

/// How texts are read.
struct TextOptions {
  std::string json_field = "text";  ///< of each object in a .jsonl file
  std::string document_separator =
      "";  ///< .txt: a line that ends a document; empty: file = document
  std::string invalid_utf8 = "error";  ///< "error", "replace" (U+FFFD) or "skip" (the document)
  uint64_t max_document_bytes = uint64_t{1} << 20;  ///< pieces a longer document arrives in
};

/// The largest position from 1 to a limit < text.size() at which a text may be cut, or 0. The text
/// may be invalid UTF-8 and may end within a code point.
using BorderRule = std::function<size_t(std::string_view text, size_t limit)>;

/// The files behind `inputs`, in the given order: files, folders (everything in them with a known
/// extension, sorted by path, hidden entries left out), globs (sorted), "-" for standard input.
/// Throws Error 66 for an input that is not there, 65 for one without texts.
std::vector<std::filesystem::path> expand_inputs(const std::vector<std::string>& inputs);

/// A document or a part of one.
struct TextPiece {
  std::string_view text{};  ///< UTF-8 without NUL; valid until the next call
  bool begins_document = false;
  bool ends_document = false;
  /// Invalid UTF-8 turned up after the document's first piece and the option is "skip": the text is
  /// empty, and the pieces of this document given so far are to be forgotten.
  bool drops_document = false;
};

/// Documents of .txt and .jsonl files, plain or .gz or .zst, one after the other, in bounded
/// memory: a few times max_document_bytes, for .jsonl the longest line (at most 64 MiB).
///
/// A .txt file is one document, or several with a separator line, which belongs to none of them.
/// Each line of a .jsonl file is one. Text is handed on byte for byte, except for a byte order mark
/// at the start of a file, which is left out. Documents of nothing but white space are passed over.
/// A document longer than max_document_bytes is cut where `last_border` says that the parts give
/// the ids of the whole, and where it finds no such place, between code points.
///
/// Errors: 66 missing; 65 invalid UTF-8 or NUL (file, line, byte offset in the unpacked text),
/// damaged or cut-off compression, malformed JSON, a file that changed while being read; 74.
class TextSource {
 public:
  struct Counts {
    uint64_t documents = 0;
    uint64_t bytes = 0;               ///< of the documents, as UTF-8 text
    uint64_t replaced_sequences = 0;  ///< invalid UTF-8 replaced by U+FFFD
    uint64_t skipped_documents = 0;   ///< left out for invalid UTF-8
    uint64_t blank_documents = 0;     ///< left out as nothing but white space
    uint64_t cuts_in_words = 0;       ///< pieces that had to end between code points
  };

  TextSource(const std::vector<std::string>& inputs,
             const TextOptions& options,
             BorderRule last_border = last_word_border);
  ~TextSource();
  TextSource(const TextSource&) = delete;
  TextSource& operator=(const TextSource&) = delete;

  /// False at the end of the last input.
  bool next(TextPiece& piece);
  const Counts& counts() const;
  /// The files read to their end so far, with the hash of their bytes as stored.
  const std::vector<CorpusSource>& sources() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvsmith
