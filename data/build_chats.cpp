#include "data/build_chats.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/text.h"
#include "data/chat_source.h"
#include "data/chat_writer.h"
#include "data/ordered_pipeline.h"

namespace kvsmith {
namespace {

constexpr size_t kBatchBytes = size_t{512} << 10;

/// Conversations on their way through the pipeline.
struct Batch {
  /// With its length as text; none: too long for any answer.
  using Written = std::optional<std::pair<ChatDocument, uint64_t>>;

  std::vector<std::vector<ChatMessage>> chats;
  std::vector<Written> documents;
};

bool read_batch(ChatSource& source, Batch& batch) {
  batch.chats.clear();
  batch.documents.clear();
  size_t bytes = 0;
  for (std::vector<ChatMessage> chat; bytes < kBatchBytes && source.next(chat);) {
    for (const ChatMessage& message : chat) bytes += message.content.size();
    batch.chats.push_back(std::move(chat));
  }
  return !batch.chats.empty();
}

void add_chats(const CorpusBuild& options,
               const std::vector<std::string>& inputs,
               bool is_valid,
               const ChatWriter& chats,
               BuildDocuments& documents,
               CorpusWriter& writer) {
  ChatSource source(inputs);
  ChatStats& stats = *documents.stats.chats;
  uint64_t kept = 0, dropped = 0;
  const auto consume = [&](const Batch& batch) {
    for (const auto& written : batch.documents) {
      if (!written) {
        ++dropped;
        continue;
      }
      const auto& [document, text_bytes] = *written;
      ++kept;
      documents.begin(is_valid);
      documents.append(document.ids, text_bytes, document.learnt);
      documents.end();
      stats.turns += document.turns;
      stats.learnt_tokens += document.learnt_tokens();
      stats.dropped_turns += document.dropped_turns;
      stats.truncated += document.is_truncated;
    }
    documents.report();
  };
  const int threads = threads_of(options);
  run_in_order<Batch>(
      threads, 2 * static_cast<size_t>(threads) + 2,
      [&](Batch& batch) { return read_batch(source, batch); },
      [&](Batch& batch) {
        for (const auto& chat : batch.chats) {
          auto& written = batch.documents.emplace_back();
          if (auto document = chats.write(chat)) {
            const uint64_t text_bytes = chats.text_bytes(*document);
            written.emplace(std::move(*document), text_bytes);
          }
        }
      },
      consume);
  for (const CorpusSource& record : source.sources()) writer.add_source(record);
  stats.dropped += dropped;
  if (kept > 0 || dropped == 0) return;
  throw Error(ExitCode::kBadData, {.what = cat("of ", dropped, " chats none has an answer within ",
                                               options.chats.max_tokens, " tokens"),
                                   .where = join(inputs),
                                   .remedy = "allow more tokens, or cut what is longer"});
}

}  // namespace

CorpusBuildStats build_chat_corpus(const CorpusBuild& options,
                                   const std::filesystem::path& output,
                                   const BuildProgress& on_progress) {
  const Tokenizer tokenizer = Tokenizer::load(options.tokenizer);
  const ChatWriter chats(options.chats, tokenizer);
  CorpusInfo info = corpus_info(options.tokenizer, tokenizer);
  info.marks_learnt = true;
  CorpusWriter writer(output, info);
  BuildDocuments documents(options, writer, on_progress);
  documents.stats.chats = ChatStats{.format = std::string(ChatTemplate::name_of(chats.format())),
                                    .is_format_of_tokenizer = chats.is_format_of_tokenizer()};
  add_chats(options, options.train_inputs, false, chats, documents, writer);
  if (!options.valid_inputs.empty())
    add_chats(options, options.valid_inputs, true, chats, documents, writer);
  documents.expect_complete();
  writer.finish();
  documents.report();
  return documents.stats;
}

}  // namespace kvsmith
