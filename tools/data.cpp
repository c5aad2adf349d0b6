#include <filesystem>
#include <iostream>
#include <memory>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"
#include "core/text.h"
#include "data/build.h"
#include "data/corpus.h"
#include "data/tokenizer.h"
#include "tools/console.h"
#include "tools/verbs.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct BuildFlags {
  CorpusBuild build;
  fs::path output;
  bool force = false, quiet = false;
};

struct InspectFlags {
  fs::path corpus;
  std::string split = "train";
  uint64_t show = 0;
  bool verify = false, json = false;
};

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
  if (stats.replaced_sequences > 0) {
    console.note(cat("replaced ", stats.replaced_sequences, " invalid UTF-8 sequences by U+FFFD"));
  }
  if (stats.split_lines > 0)
    console.note(cat("tokenised ", stats.split_lines, " over-long lines in parts"));
}

Json describe(const Corpus& corpus, const fs::path& path) {
  const auto& info = corpus.info();
  Json json = {{"corpus", path.string()},
               {"fingerprint", corpus.fingerprint()},
               {"vocab_size", info.vocab_size},
               {"tokenizer", {{"name", info.tokenizer_name}, {"sha256", info.tokenizer_sha256}}},
               {"splits", Json::object()},
               {"sources", Json::array()}};
  for (const auto& name : corpus.splits()) {
    const auto split = corpus.split(name);
    uint64_t bytes = 0;
    for (uint64_t d = 0; d < split->documents(); ++d) bytes += split->text_bytes(d);
    json["splits"][name] = {
        {"documents", split->documents()},
        {"tokens", split->tokens()},
        {"text_bytes", bytes},
        {"bytes_per_token", static_cast<double>(bytes) / static_cast<double>(split->tokens())}};
  }
  for (const auto& source : info.sources) {
    json["sources"].push_back(
        {{"name", source.name}, {"bytes", source.bytes}, {"sha256", source.sha256}});
  }
  return json;
}

/// The first tokens of a document, separated by bars; with the tokenizer that the corpus holds.
void show_document(const Corpus& corpus, const CorpusSplit& split, uint64_t document) {
  constexpr uint64_t kTokens = 64;
  const uint64_t begin = split.offset(document), count = split.offset(document + 1) - begin;
  std::vector<int32_t> ids(std::min(count, kTokens));
  split.read(begin, ids);
  std::cout << "document " << document << ", " << count << " tokens: ";
  const auto& model = corpus.info().tokenizer_model;
  if (model.empty()) {
    for (const int32_t id : ids) std::cout << id << " ";
  } else {
    const auto tokenizer = Tokenizer::from_bytes(model, "the corpus");
    for (const int32_t id : ids) std::cout << printable(tokenizer.piece(id)) << "|";
  }
  std::cout << (count > kTokens ? " ...\n" : "\n");
}

void inspect(const InspectFlags& flags) {
  const Corpus corpus = Corpus::open(flags.corpus);
  if (flags.verify) corpus.verify();
  const Json json = describe(corpus, flags.corpus);
  if (flags.json) {
    std::cout << json.dump(2) << "\n";
    return;
  }
  std::cout << "vocabulary  " << corpus.info().vocab_size << ", tokenizer "
            << corpus.info().tokenizer_name << "\n";
  for (const auto& [name, split] : json["splits"].items()) {
    std::cout << "split       " << name << ": " << split["documents"] << " documents, "
              << split["tokens"] << " tokens, " << human_bytes(split["text_bytes"].get<double>())
              << " of text, " << split["bytes_per_token"] << " bytes a token\n";
  }
  for (const auto& source : corpus.info().sources) {
    std::cout << "source      " << printable(source.name) << ", " << source.bytes << " bytes\n";
  }
  std::cout << "fingerprint " << corpus.fingerprint()
            << (flags.verify ? ", every chunk verified\n" : "\n");
  if (flags.show == 0) return;
  const auto split = corpus.split(flags.split);
  for (uint64_t d = 0; d < std::min(flags.show, split->documents()); ++d)
    show_document(corpus, *split, d);
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
  verb->add_option("--seed", build_flags.seed, "of --valid-fraction");
  verb->add_option("--threads", build_flags.threads, "0: all cores");
  verb->add_option("--output,-o", flags->output, "corpus file (.h5)")->required();
  verb->add_flag("--force", flags->force, "replace the output");
  verb->add_flag("--quiet,-q", flags->quiet, "no progress on stderr");
  verb->footer(
      "Examples:\n"
      "  kvsmith data build books/ --valid held-out.txt --tokenizer tokenizer.model --output "
      "corpus.h5\n"
      "  zcat dump.jsonl.gz | kvsmith data build - --tokenizer tokenizer.model --output corpus.h5");
  verb->callback([flags] { build(*flags); });
}

void add_inspect(CLI::App& data) {
  auto* verb = data.add_subcommand("inspect", "What a corpus file holds");
  auto flags = std::make_shared<InspectFlags>();
  verb->add_option("corpus", flags->corpus, "corpus file")->required();
  verb->add_option("--show", flags->show, "print the first tokens of this many documents");
  verb->add_option("--split", flags->split, "split to show")->capture_default_str();
  verb->add_flag("--verify", flags->verify, "read everything and check every checksum");
  verb->add_flag("--json", flags->json, "print JSON");
  verb->footer("Example:\n  kvsmith data inspect corpus.h5 --show 3 --verify");
  verb->callback([flags] { inspect(*flags); });
}

}  // namespace

void add_data(CLI::App& app) {
  auto* data = app.add_subcommand("data", "Corpora");
  data->require_subcommand(1);
  add_build(*data);
  add_inspect(*data);
  add_data_probes(*data);
}

}  // namespace kvsmith
