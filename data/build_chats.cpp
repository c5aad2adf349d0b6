#include "data/build_chats.h"

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/text.h"
#include "data/chat_source.h"
#include "data/chat_template.h"
#include "data/ordered_pipeline.h"

namespace kvsmith {
namespace {

constexpr size_t kBatchBytes = size_t{512} << 10;

/// A conversation as the corpus holds it.
struct Document {
  std::vector<int32_t> ids = {};
  std::vector<uint8_t> learnt = {};
  uint64_t text_bytes = 0;
  size_t turns = 0, dropped_turns = 0;
  bool is_truncated = false;
};

/// Conversations on their way through the pipeline.
struct Batch {
  std::vector<std::vector<ChatMessage>> chats;
  std::vector<std::optional<Document>> documents;  ///< none: too long for any answer
};

/// Turns conversations into documents. Safe to call from several threads.
class ChatWriter {
 public:
  ChatWriter(const CorpusBuild& options, const Tokenizer& tokenizer)
      : tokenizer_(tokenizer),
        template_(options.chats.format.empty()
                      ? ChatTemplate::recognize(tokenizer.chat_template())
                      : ChatTemplate(ChatTemplate::format_named(options.chats.format))),
        longest_(options.chats.max_tokens > 0 ? static_cast<size_t>(options.chats.max_tokens)
                                              : SIZE_MAX),
        truncates_(options.chats.overflow == "truncate") {
    if (template_.end_of_turn().empty()) {
      bos_ = tokenizer.bos_id();
      eos_ = tokenizer.eos_id();
    }
  }

  ChatTemplate::Format format() const { return template_.format(); }

  /// None when nothing to learn fits.
  std::optional<Document> write(const std::vector<ChatMessage>& chat) const {
    ChatTokens tokens = template_.tokens(tokenizer_, chat, /*asks=*/false);
    Document out{.turns = chat.size()};
    const size_t marks = (bos_ >= 0 ? 1 : 0) + (eos_ >= 0 ? 1 : 0);
    if (!truncates_ && tokens.ids.size() + marks > longest_) {
      const auto fits = [&](const ChatTokens::Answer& a) { return a.ids + marks <= longest_; };
      const auto kept = std::ranges::partition_point(tokens.answers, fits);
      if (kept == tokens.answers.begin()) return std::nullopt;
      const auto& [messages, ids] = *std::prev(kept);
      out.dropped_turns = chat.size() - messages;
      out.turns = messages;
      tokens.ids.resize(ids);
      tokens.learnt.resize(ids);
    }
    if (bos_ >= 0) add(out, bos_, false);
    out.ids.insert(out.ids.end(), tokens.ids.begin(), tokens.ids.end());
    out.learnt.insert(out.learnt.end(), tokens.learnt.begin(), tokens.learnt.end());
    if (eos_ >= 0) add(out, eos_, tokens.learnt.back() != 0);
    out.is_truncated = out.ids.size() > longest_;
    if (out.is_truncated) {
      out.ids.resize(longest_);
      out.learnt.resize(longest_);
    }
    if (std::ranges::count(out.learnt, 1) == 0) return std::nullopt;
    out.text_bytes = tokenizer_.decode(out.ids).size();
    return out;
  }

 private:
  static void add(Document& document, int32_t id, bool is_learnt) {
    document.ids.push_back(id);
    document.learnt.push_back(is_learnt ? 1 : 0);
  }

  const Tokenizer& tokenizer_;
  ChatTemplate template_;
  size_t longest_;
  bool truncates_;
  int32_t bos_ = -1, eos_ = -1;  ///< around a document; -1: none
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
    for (const auto& document : batch.documents) {
      if (!document) {
        ++dropped;
        continue;
      }
      ++kept;
      documents.begin(is_valid);
      documents.append(document->ids, document->text_bytes, document->learnt);
      documents.end();
      stats.turns += document->turns;
      stats.learnt_tokens += static_cast<uint64_t>(std::ranges::count(document->learnt, 1));
      stats.dropped_turns += document->dropped_turns;
      stats.truncated += document->is_truncated;
    }
    documents.report();
  };
  const int threads = threads_of(options);
  run_in_order<Batch>(
      threads, 2 * static_cast<size_t>(threads) + 2,
      [&](Batch& batch) { return read_batch(source, batch); },
      [&](Batch& batch) {
        for (const auto& chat : batch.chats) batch.documents.push_back(chats.write(chat));
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
  if (options.tokenizer.empty()) {
    throw Error(ExitCode::kConfig,
                {.what = "no tokenizer for chats",
                 .where = "data build",
                 .remedy = "name a SentencePiece model or a tokenizer.json with --tokenizer"});
  }
  const Tokenizer tokenizer = Tokenizer::load(options.tokenizer);
  const ChatWriter chats(options, tokenizer);
  CorpusInfo info = corpus_info(options.tokenizer, tokenizer);
  info.marks_learnt = true;
  CorpusWriter writer(output, info);
  BuildDocuments documents(options, writer, on_progress);
  documents.stats.chats =
      ChatStats{.format = std::string(ChatTemplate::name_of(chats.format())),
                .is_format_of_tokenizer =
                    ChatTemplate::format_of(tokenizer.chat_template()) == chats.format()};
  add_chats(options, options.train_inputs, false, chats, documents, writer);
  if (!options.valid_inputs.empty())
    add_chats(options, options.valid_inputs, true, chats, documents, writer);
  documents.expect_complete();
  writer.finish();
  documents.report();
  return documents.stats;
}

}  // namespace kvsmith
