#include "data/build_pairs.h"

#include <array>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/text.h"
#include "data/chat_writer.h"
#include "data/json_lines.h"
#include "data/ordered_pipeline.h"
#include "data/preference_json.h"

namespace kvsmith {
namespace {

constexpr size_t kBatchBytes = size_t{512} << 10;

struct Pair {
  enum class Fate : uint8_t { kKept, kTooLong, kAlike };

  std::array<ChatDocument, 2> documents;  ///< with the chosen and with the rejected answer
  std::array<uint64_t, 2> text_bytes = {};
  Fate fate = Fate::kKept;
};

/// Pairs on their way through the pipeline.
struct Batch {
  std::vector<Preference> preferences;
  std::vector<Pair> pairs;
};

ChatDocument write(const ChatWriter& writer,
                   const Preference& preference,
                   const std::vector<ChatMessage>& answer) {
  if (!preference.is_chat) return writer.whole(preference.prompt[0].content, answer[0].content);
  auto chat = preference.prompt;
  chat.insert(chat.end(), answer.begin(), answer.end());
  return writer.whole(chat);
}

Pair write(const ChatWriter& writer, const Preference& preference) {
  Pair out{.documents = {write(writer, preference, preference.chosen),
                         write(writer, preference, preference.rejected)}};
  auto& [chosen, rejected] = out.documents;
  const bool fits = writer.fit(chosen) && writer.fit(rejected);
  if (!fits) {
    out.fate = Pair::Fate::kTooLong;
  } else if (chosen.ids == rejected.ids) {
    out.fate = Pair::Fate::kAlike;
  } else {
    out.text_bytes = {writer.text_bytes(chosen), writer.text_bytes(rejected)};
  }
  return out;
}

bool read_batch(JsonLines& lines, Batch& batch) {
  batch.preferences.clear();
  batch.pairs.clear();
  size_t bytes = 0;
  for (std::string_view line; bytes < kBatchBytes && lines.next(line);) {
    bytes += line.size();
    batch.preferences.push_back(parse_preference(line, lines.where()));
  }
  return !batch.preferences.empty();
}

void add_pairs(const CorpusBuild& options,
               const std::vector<std::string>& inputs,
               bool is_valid,
               const ChatWriter& chats,
               BuildDocuments& documents,
               CorpusWriter& writer) {
  JsonLines lines(inputs, "pairs of answers");
  PairStats& stats = *documents.stats.pairs;
  uint64_t kept = 0, too_long = 0, alike = 0;
  const auto consume = [&](const Batch& batch) {
    for (const Pair& pair : batch.pairs) {
      too_long += pair.fate == Pair::Fate::kTooLong;
      alike += pair.fate == Pair::Fate::kAlike;
      if (pair.fate != Pair::Fate::kKept) continue;
      ++kept;
      documents.begin(is_valid);
      for (size_t i = 0; i < pair.documents.size(); ++i) {
        const ChatDocument& document = pair.documents[i];
        documents.append(document.ids, pair.text_bytes[i], document.learnt);
        documents.end();
        stats.learnt_tokens += document.learnt_tokens();
        stats.truncated += document.is_truncated;
      }
    }
    documents.report();
  };
  const int threads = threads_of(options);
  run_in_order<Batch>(
      threads, 2 * static_cast<size_t>(threads) + 2,
      [&](Batch& batch) { return read_batch(lines, batch); },
      [&](Batch& batch) {
        for (const auto& preference : batch.preferences)
          batch.pairs.push_back(write(chats, preference));
      },
      consume);
  for (const CorpusSource& record : lines.sources()) writer.add_source(record);
  stats.too_long += too_long;
  stats.alike += alike;
  if (kept > 0 || too_long + alike == 0) return;
  throw Error(ExitCode::kBadData,
              {.what = cat("of ", too_long + alike, " pairs ", too_long, " do not fit into ",
                           options.chats.max_tokens, " tokens and ", alike, " have equal answers"),
               .where = join(inputs),
               .remedy = "allow more tokens, or cut what is longer"});
}

}  // namespace

CorpusBuildStats build_pair_corpus(const CorpusBuild& options,
                                   const std::filesystem::path& output,
                                   const BuildProgress& on_progress) {
  const Tokenizer tokenizer = Tokenizer::load(options.tokenizer);
  const ChatWriter chats(options.chats, tokenizer);
  CorpusInfo info = corpus_info(options.tokenizer, tokenizer);
  info.marks_learnt = info.holds_pairs = true;
  CorpusWriter writer(output, info);
  BuildDocuments documents(options, writer, on_progress);
  documents.stats.pairs = PairStats{.format = std::string(ChatTemplate::name_of(chats.format())),
                                    .is_format_of_tokenizer = chats.is_format_of_tokenizer()};
  add_pairs(options, options.train_inputs, false, chats, documents, writer);
  if (!options.valid_inputs.empty())
    add_pairs(options, options.valid_inputs, true, chats, documents, writer);
  documents.expect_complete();
  writer.finish();
  documents.report();
  return documents.stats;
}

}  // namespace kvsmith
