#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/text_source.h"

namespace kvsmith {

/// How chats become documents.
struct ChatOptions {
  bool are_read = false;    ///< the inputs are chats, see ChatSource, and not texts
  bool are_pairs = false;   ///< they are pairs of answers, see parse_preference(), and not texts
  std::string format = "";  ///< "plain", "chatml", "llama3"; empty: the tokenizer's own
  int64_t max_tokens = 0;   ///< of a conversation; 0: any number
  std::string overflow = "drop";  ///< of longer ones: "drop" turns from the end, or "truncate"
};

struct CorpusBuild {
  std::vector<std::string> train_inputs;  ///< files, folders, globs or "-" for standard input
  std::vector<std::string> valid_inputs;  ///< given validation files; excludes valid_fraction
  double valid_fraction = 0;  ///< of documents, chosen by a hash of (seed, index), 0 to 0.5
  uint64_t seed = 0;
  std::filesystem::path
      tokenizer;           ///< model file or tokenizer.json; may be missing for token files
  int64_t vocab_size = 0;  ///< token files without tokenizer: their vocabulary
  TextOptions text;
  ChatOptions chats = {};
  int threads = 0;  ///< 0: all cores
};

/// What became of the conversations of a corpus of chats; the documents of it are those kept.
struct ChatStats {
  std::string format;                  ///< in which they are written
  bool is_format_of_tokenizer = true;  ///< `generate --chat` writes prompts in the same
  uint64_t turns = 0;                  ///< written
  uint64_t learnt_tokens = 0;
  uint64_t dropped = 0;        ///< conversations too long for any answer
  uint64_t dropped_turns = 0;  ///< of conversations that were kept
  uint64_t truncated = 0;      ///< conversations cut
};

/// What became of pairs of answers; the documents of their corpus are two of each pair kept.
struct PairStats {
  std::string format;                  ///< in which conversations are written
  bool is_format_of_tokenizer = true;  ///< `generate --chat` writes prompts in the same
  uint64_t learnt_tokens = 0;
  uint64_t too_long = 0;   ///< pairs left out: an answer does not fit, or nothing of it
  uint64_t alike = 0;      ///< pairs left out: both answers are the same tokens
  uint64_t truncated = 0;  ///< answers cut
};

struct CorpusBuildStats {
  uint64_t documents = 0, tokens = 0, text_bytes = 0;
  uint64_t replaced_sequences = 0;  ///< invalid UTF-8 replaced by U+FFFD
  uint64_t split_lines = 0;         ///< over-long lines tokenised in parts
  uint64_t skipped_documents = 0;   ///< left out for invalid UTF-8
  uint64_t blank_documents = 0;     ///< left out as nothing but white space
  double seconds = 0;
  std::optional<ChatStats> chats;  ///< of a corpus of chats
  std::optional<PairStats> pairs;  ///< of a corpus of pairs
};

/// Tokenises texts (.txt, .jsonl, both also .gz or .zst) in parallel, in order, into `output`, each
/// document between begin- and end-of-text; byte-identical for identical inputs whatever the thread
/// count. Token files (llm.c and nanoGPT .bin, Megatron .bin/.idx) are copied as they are, with
/// text lengths of 0; see TokenFile for what counts as a document in them. Nothing is left under
/// `output` on failure.
///
/// With chats.are_read the inputs are chats (.jsonl, also .gz or .zst), a conversation a line, and
/// the corpus marks what of them is to be learnt, see ChatTemplate::tokens(). A document is a
/// conversation in its format; in the plain one between begin- and end-of-text where the tokenizer
/// has them, the latter learnt after an answer. What is longer than chats.max_tokens loses its last
/// turns, so that it ends with the last answer that fits, or is cut; a conversation of which
/// nothing would be learnt is left out.
///
/// With chats.are_pairs they are pairs of answers to a prompt, one a line, and a document is the
/// prompt with one of them, first the chosen; only the answer is to be learnt. A pair of
/// conversations is written in their format; one of texts as it is, prompt and answer encoded
/// apart, between begin- and end-of-text. A pair of which an answer is longer than chats.max_tokens
/// is left out or cut, both its answers at most; so is one of equal answers, or of which nothing
/// would be learnt. Both documents of a pair are in one split.
///
/// Memory, whatever the length of a document: (2 threads + 2) batches of max_document_bytes +
/// 512 KiB of text and its ids, 8 MiB of cached words a thread, and the writer. A single word of
/// 1 MiB costs the SentencePiece library 0.25 GiB for as long as it is encoded. In two cases the
/// ids of the longest document are held besides, 4 to 8 bytes each: with invalid_utf8 = "skip",
/// where a document may turn out bad at its very end, and for Megatron files.
///
/// Errors: those of TextSource, ChatSource, ChatTemplate, Tokenizer, TokenFile and CorpusWriter; 65
/// for inputs without documents or a valid_fraction that leaves a split empty; 78 for options that
/// contradict. `on_progress` is called in the calling thread, some times a second.
CorpusBuildStats build_corpus(const CorpusBuild& options,
                              const std::filesystem::path& output,
                              const std::function<void(const CorpusBuildStats&)>& on_progress = {});

}  // namespace kvsmith
