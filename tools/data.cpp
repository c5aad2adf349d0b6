#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "core/error.h"
#include "core/files.h"
#include "core/text.h"
#include "data/build.h"
#include "tools/console.h"
#include "tools/data_inspect.h"
#include "tools/verbs.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

struct BuildFlags {
  CorpusBuild build;
  fs::path output;
  bool force = false, quiet = false;
};

std::string note_on_format(const std::string& format) {
  return cat("note: the tokenizer does not name the format ", format,
             ": `generate --chat` will write prompts as the tokenizer says");
}

/// What became of the conversations, a line each.
std::vector<std::string> describe_chats(const ChatStats& chats, const CorpusBuildStats& stats) {
  const double share = 100 * static_cast<double>(chats.learnt_tokens) /
                       static_cast<double>(std::max<uint64_t>(1, stats.tokens));
  std::vector<std::string> lines = {
      cat(stats.documents, " conversations of ", chats.turns, " turns in the format ", chats.format,
          "; ", chats.learnt_tokens, " of ", stats.tokens, " tokens are learnt (",
          std::round(10 * share) / 10, " %)")};
  if (chats.dropped + chats.dropped_turns + chats.truncated > 0) {
    lines.push_back(cat("too long: ", chats.dropped, " conversations dropped, ",
                        chats.dropped_turns, " last turns dropped of others, ", chats.truncated,
                        " conversations truncated"));
  }
  if (!chats.is_format_of_tokenizer) lines.push_back(note_on_format(chats.format));
  return lines;
}

/// What became of pairs of answers, a line each.
std::vector<std::string> describe_pairs(const PairStats& pairs, const CorpusBuildStats& stats) {
  std::vector<std::string> lines = {cat(stats.documents / 2, " pairs, conversations in the format ",
                                        pairs.format, "; ", pairs.learnt_tokens, " of ",
                                        stats.tokens, " tokens are learnt")};
  if (pairs.too_long + pairs.truncated > 0) {
    lines.push_back(cat("too long: ", pairs.too_long, " pairs left out, ", pairs.truncated,
                        " answers truncated"));
  }
  if (pairs.alike > 0) lines.push_back(cat("left out: ", pairs.alike, " pairs of equal answers"));
  if (!pairs.is_format_of_tokenizer) lines.push_back(note_on_format(pairs.format));
  return lines;
}

void build(const BuildFlags& flags) {
  expect_writable(flags.output, flags.force);
  Console console(flags.quiet);
  const auto line = [](const CorpusBuildStats& stats) {
    return cat(stats.documents, " documents, ", human_bytes(static_cast<double>(stats.text_bytes)),
               ", ", human_count(static_cast<double>(stats.tokens)), " tokens, ",
               human_bytes(static_cast<double>(stats.text_bytes) / std::max(stats.seconds, 1e-3)),
               "/s");
  };
  const auto stats = build_corpus(flags.build, flags.output, [&](const CorpusBuildStats& so_far) {
    console.progress(line(so_far), false);
  });
  console.note(cat("wrote ", flags.output.string(), ": ", line(stats)));
  if (stats.chats)
    for (const auto& text : describe_chats(*stats.chats, stats)) console.note(text);
  if (stats.pairs)
    for (const auto& text : describe_pairs(*stats.pairs, stats)) console.note(text);
  if (stats.replaced_sequences > 0) {
    console.note(cat("replaced ", stats.replaced_sequences, " invalid UTF-8 sequences by U+FFFD"));
  }
  if (stats.split_lines > 0)
    console.note(cat("tokenised ", stats.split_lines, " over-long lines in parts"));
}

void add_build(CLI::App& data) {
  auto* verb = data.add_subcommand("build", "Tokenise texts into a corpus file");
  auto flags = std::make_shared<BuildFlags>();
  auto& build_flags = flags->build;
  verb->add_option("inputs", build_flags.train_inputs,
                   "texts to train on: .txt, .jsonl (also .gz, .zst), token files .bin, folders, "
                   "globs, - for stdin")
      ->required();
  verb->add_option("--valid", build_flags.valid_inputs, "texts for the split \"valid\"");
  verb->add_option("--valid-fraction", build_flags.valid_fraction,
                   "share of documents for \"valid\" instead")
      ->check(CLI::Range(0.0, 0.5));
  verb->add_option("--tokenizer", build_flags.tokenizer,
                   "SentencePiece model, or tokenizer.json of byte-level BPE");
  verb->add_option("--vocab-size", build_flags.vocab_size, "of token files without a tokenizer");
  verb->add_option("--json-field", build_flags.text.json_field, "field with the text in .jsonl")
      ->capture_default_str();
  verb->add_option("--document-separator", build_flags.text.document_separator,
                   "line that ends a document in .txt; without it a file is a document");
  verb->add_option("--invalid-utf8", build_flags.text.invalid_utf8, "error, replace or skip")
      ->check(CLI::IsMember({"error", "replace", "skip"}))
      ->capture_default_str();
  auto* chats = verb->add_flag("--chats", build_flags.chats.are_read,
                               "the inputs are chats in .jsonl, OpenAI's or ShareGPT's keys; only "
                               "what the assistant says is learnt; docs/fine-tuning.md");
  auto* pairs = verb->add_flag("--preferences", build_flags.chats.are_pairs,
                               "the inputs are pairs of answers in .jsonl, as TRL has them, to "
                               "learn from with [preference]; docs/fine-tuning.md")
                    ->excludes(chats);
  for (const char* of_texts :
       {"--vocab-size", "--json-field", "--document-separator", "--invalid-utf8"})
    for (auto* flag : {chats, pairs}) flag->excludes(verb->get_option(of_texts));
  verb->add_option("--template", build_flags.chats.format,
                   "format of chats: chatml, llama3 or plain; without it the tokenizer's own");
  auto* most = verb->add_option("--max-tokens", build_flags.chats.max_tokens,
                                "of a conversation or answer; without it any number")
                   ->check(CLI::PositiveNumber);
  verb->add_option("--overflow", build_flags.chats.overflow,
                   "of longer ones: drop (turns from the end, up to an answer; a pair as a whole) "
                   "or truncate")
      ->needs(most)
      ->check(CLI::IsMember({"drop", "truncate"}))
      ->capture_default_str();
  verb->add_option("--seed", build_flags.seed, "of --valid-fraction");
  verb->add_option("--threads", build_flags.threads, "0: all cores");
  verb->add_option("--output,-o", flags->output, "corpus file (.h5)")->required();
  verb->add_flag("--force", flags->force, "replace the output");
  verb->add_flag("--quiet,-q", flags->quiet, "no progress on stderr");
  verb->footer(
      "Examples:\n"
      "  kvsmith data build books/ --valid held-out.txt --tokenizer tokenizer.model --output "
      "corpus.h5\n"
      "  kvsmith data build chats.jsonl --chats --max-tokens 2048 --tokenizer tokenizer.json "
      "--output "
      "chats.h5\n"
      "  kvsmith data build pairs.jsonl --preferences --tokenizer tokenizer.json --output "
      "pairs.h5\n"
      "  zcat dump.jsonl.gz | kvsmith data build - --tokenizer tokenizer.model --output corpus.h5");
  verb->callback([flags, verb] {
    const auto& read = flags->build.chats;
    for (const char* of_chats : {"--template", "--max-tokens"}) {
      if (read.are_read || read.are_pairs || verb->count(of_chats) == 0) continue;
      throw Error(ExitCode::kUsage, {.what = cat(of_chats, " is for chats and pairs of answers"),
                                     .where = "data build",
                                     .remedy = "add --chats or --preferences"});
    }
    build(*flags);
  });
}

}  // namespace

void add_data(CLI::App& app) {
  auto* data = app.add_subcommand("data", "Corpora");
  data->require_subcommand(1);
  add_build(*data);
  add_data_inspect(*data);
  add_data_probes(*data);
}

}  // namespace kvsmith
