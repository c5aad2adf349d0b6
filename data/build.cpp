#include "data/build.h"

#include <algorithm>
#include <optional>
#include <span>

#include "core/error.h"
#include "core/text.h"
#include "data/build_chats.h"
#include "data/build_documents.h"
#include "data/build_pairs.h"
#include "data/ordered_pipeline.h"
#include "data/token_files.h"
#include "data/tokenizer.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBatchBytes = size_t{512} << 10;

[[noreturn]] void contradiction(const std::string& what,
                                const std::string& where,
                                const std::string& remedy) {
  throw Error(ExitCode::kConfig, {.what = what, .where = where, .remedy = remedy});
}

/// The token files among the inputs, each once; empty when all are texts.
std::vector<std::string> token_files(const std::vector<std::string>& inputs) {
  std::vector<std::string> found;
  size_t texts = 0;
  for (const fs::path& path : expand_inputs(inputs)) {
    if (!TokenFile::is_named_by(path)) {
      ++texts;
      continue;
    }
    const std::string name = fs::path(path).replace_extension(".bin").string();
    if (std::ranges::find(found, name) == found.end()) found.push_back(name);
  }
  if (!found.empty() && texts > 0)
    contradiction("texts and token files in one corpus", found.front(), "build two corpora");
  return found;
}

/// Pieces of text on their way through the pipeline.
struct Batch {
  struct Part {
    size_t text_end, ids_end;
    bool begins, ends, drops;
  };
  std::string text;
  std::vector<Part> parts;
  std::vector<int32_t> ids;
  TextSource::Counts counts;  ///< of the source, after this batch
};

bool read_batch(TextSource& source, Batch& batch) {
  batch.text.clear();
  batch.parts.clear();
  batch.ids.clear();
  for (TextPiece piece; batch.text.size() < kBatchBytes && source.next(piece);) {
    batch.text += piece.text;
    batch.parts.push_back({.text_end = batch.text.size(),
                           .ids_end = 0,
                           .begins = piece.begins_document,
                           .ends = piece.ends_document,
                           .drops = piece.drops_document});
  }
  batch.counts = source.counts();
  return !batch.parts.empty();
}

void encode_batch(const Tokenizer& tokenizer, Batch& batch) {
  size_t begin = 0;
  for (Batch::Part& part : batch.parts) {
    if (part.begins && tokenizer.bos_id() >= 0) batch.ids.push_back(tokenizer.bos_id());
    const std::string_view text(batch.text.data() + begin, part.text_end - begin);
    tokenizer.encode_to(batch.ids, text,
                        part.begins ? Tokenizer::Begin::kText : Tokenizer::Begin::kInside);
    if (part.ends && tokenizer.eos_id() >= 0) batch.ids.push_back(tokenizer.eos_id());
    part.ids_end = batch.ids.size();
    begin = part.text_end;
  }
}

void add_texts(const CorpusBuild& options,
               const std::vector<std::string>& inputs,
               bool is_valid,
               const Tokenizer& tokenizer,
               BuildDocuments& documents,
               CorpusWriter& writer) {
  const int threads = threads_of(options);
  TextSource source(inputs, options.text, [&](std::string_view text, size_t limit) {
    return tokenizer.last_border(text, limit);
  });
  const CorpusBuildStats before = documents.stats;
  // Only then can a document turn out bad after its first piece, and the writer takes nothing back.
  const bool may_drop = options.text.invalid_utf8 == "skip";
  std::vector<int32_t> held;
  uint64_t held_bytes = 0;

  const auto consume = [&](Batch& batch) {
    size_t text_begin = 0, ids_begin = 0;
    for (const Batch::Part& part : batch.parts) {
      const auto ids = std::span(batch.ids).subspan(ids_begin, part.ids_end - ids_begin);
      const uint64_t bytes = part.text_end - text_begin;
      if (part.begins) {
        documents.begin(is_valid);
        held.clear();
        held_bytes = 0;
      }
      if (may_drop) {
        held.insert(held.end(), ids.begin(), ids.end());
        held_bytes += bytes;
      } else {
        documents.append(ids, bytes);
      }
      if (part.ends && !part.drops) {
        if (may_drop) documents.append(held, held_bytes);
        documents.end();
      }
      text_begin = part.text_end;
      ids_begin = part.ids_end;
    }
    auto& stats = documents.stats;
    stats.replaced_sequences = before.replaced_sequences + batch.counts.replaced_sequences;
    stats.split_lines = before.split_lines + batch.counts.cuts_in_words;
    stats.skipped_documents = before.skipped_documents + batch.counts.skipped_documents;
    stats.blank_documents = before.blank_documents + batch.counts.blank_documents;
    documents.report();
  };
  run_in_order<Batch>(
      threads, 2 * static_cast<size_t>(threads) + 2,
      [&](Batch& batch) { return read_batch(source, batch); },
      [&](Batch& batch) { encode_batch(tokenizer, batch); }, consume);
  for (const CorpusSource& record : source.sources()) writer.add_source(record);
}

void add_token_files(const std::vector<std::string>& files,
                     const CorpusInfo& info,
                     bool is_valid,
                     BuildDocuments& documents,
                     CorpusWriter& writer) {
  for (const std::string& name : files) {
    TokenFile file(name, {info.vocab_size, info.bos_id, info.eos_id});
    for (std::vector<int32_t> ids; file.next(ids);) {
      documents.begin(is_valid);
      documents.append(ids, 0);
      documents.end();
      documents.report();
    }
    for (const CorpusSource& record : file.sources()) writer.add_source(record);
  }
}

void check_chats(const CorpusBuild& options) {
  const ChatOptions& chats = options.chats;
  if (chats.max_tokens < 0) contradiction(cat(chats.max_tokens), "max_tokens", "choose 0 or more");
  if (chats.overflow != "drop" && chats.overflow != "truncate")
    contradiction(in_quotes(chats.overflow), "overflow", "choose drop or truncate");
  if (options.text.invalid_utf8 != "error")
    contradiction("chats with invalid UTF-8 are refused", "invalid_utf8", "repair the files");
  if (options.tokenizer.empty())
    contradiction("no tokenizer for chats", "data build",
                  "name a SentencePiece model or a tokenizer.json with --tokenizer");
}

void check(const CorpusBuild& options) {
  if (options.train_inputs.empty())
    contradiction("no inputs", "train_inputs", "name files, folders or \"-\"");
  if (!(options.valid_fraction >= 0 && options.valid_fraction <= 0.5))
    contradiction(cat(options.valid_fraction), "valid_fraction", "choose 0 to 0.5");
  if (options.valid_fraction > 0 && !options.valid_inputs.empty())
    contradiction("both validation files and a fraction", "valid_fraction", "choose one");
  if (options.chats.are_read && options.chats.are_pairs)
    contradiction("both chats and pairs of answers", "chats", "build two corpora");
  if (options.chats.are_read || options.chats.are_pairs) check_chats(options);
}

}  // namespace

CorpusBuildStats build_corpus(const CorpusBuild& options,
                              const fs::path& output,
                              const BuildProgress& on_progress) {
  check(options);
  if (options.chats.are_read) return build_chat_corpus(options, output, on_progress);
  if (options.chats.are_pairs) return build_pair_corpus(options, output, on_progress);
  const auto train_files = token_files(options.train_inputs);
  const auto valid_files = token_files(options.valid_inputs);
  const bool copies_tokens = !train_files.empty();
  if (!options.valid_inputs.empty() && copies_tokens == valid_files.empty())
    contradiction("texts and token files in one corpus", "valid_inputs", "build two corpora");
  if (options.tokenizer.empty() && !copies_tokens)
    contradiction("no tokenizer for texts", "data build",
                  "name a SentencePiece model or a tokenizer.json with --tokenizer");
  if (options.tokenizer.empty() && options.vocab_size <= 0)
    contradiction("token files do not say their vocabulary size", "data build",
                  "give it with --vocab-size, or their --tokenizer");

  std::optional<Tokenizer> tokenizer;
  if (!options.tokenizer.empty()) tokenizer = Tokenizer::load(options.tokenizer);
  CorpusInfo info;
  info.vocab_size = options.vocab_size;
  if (tokenizer) info = corpus_info(options.tokenizer, *tokenizer);
  CorpusWriter writer(output, info);
  BuildDocuments documents(options, writer, on_progress);
  if (copies_tokens) {
    add_token_files(train_files, info, false, documents, writer);
    add_token_files(valid_files, info, true, documents, writer);
  } else {
    add_texts(options, options.train_inputs, false, *tokenizer, documents, writer);
    if (!options.valid_inputs.empty())
      add_texts(options, options.valid_inputs, true, *tokenizer, documents, writer);
  }
  documents.expect_complete();
  writer.finish();
  documents.report();
  return documents.stats;
}

}  // namespace kvsmith
