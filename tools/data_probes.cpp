#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>

#include <CLI/CLI.hpp>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/text.h"
#include "data/corpus.h"
#include "data/tokenizer.h"
#include "evaluate/probe_tasks.h"
#include "tools/console.h"
#include "tools/probe_flags.h"
#include "tools/verbs.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

struct ProbesFlags {
  fs::path corpus, output;
  std::string split = "train";
  std::vector<std::string> tasks;
  ProbeOptions options;
  uint64_t sequences = 10000;
  bool force = false, quiet = false;
};

/// Bytes of text that the tokens stand for; 0 without a tokenizer.
uint64_t text_bytes(const std::optional<Tokenizer>& tokenizer, std::span<const int32_t> ids) {
  uint64_t bytes = 0;
  for (const int32_t id : ids)
    if (tokenizer && !tokenizer->is_special(id)) bytes += tokenizer->surface(id).size();
  return bytes;
}

/// Document i is a sample of its own, of a task, a length and a depth that are drawn.
void write_probes(ProbesFlags& flags) {
  expect_writable(flags.output, flags.force);
  std::vector<const ProbeTask*> tasks;
  for (const std::string& name : flags.tasks) tasks.push_back(&probe_task(name));
  if (tasks.empty())
    for (const ProbeTask& task : probe_tasks()) tasks.push_back(&task);
  const Corpus corpus = Corpus::open(flags.corpus);
  const auto text = ProbeText::of_corpus(corpus, flags.split);
  CorpusInfo info = corpus.info();
  info.sources = {{.name = flags.corpus.filename().string(),
                   .bytes = fs::file_size(flags.corpus),
                   .sha256 = sha256_of_file(flags.corpus)}};
  std::optional<Tokenizer> tokenizer;
  if (!info.tokenizer_model.empty())
    tokenizer = Tokenizer::from_bytes(info.tokenizer_model, flags.corpus.string());

  Console console(flags.quiet);
  CorpusWriter writer(flags.output, info);
  uint64_t tokens = 0;
  for (uint64_t i = 0; i < flags.sequences; ++i) {
    Draws draws(flags.options.seed, "probe corpus", i);
    const ProbeTask& task = *tasks[draws.below(tasks.size())];
    const int64_t length = flags.options.lengths[draws.below(flags.options.lengths.size())];
    const double depth = uniform(flags.options.seed, "probe depth", i);
    const auto sample = make_sample(task, text, flags.options, length, depth, i);
    std::vector<int32_t> ids(sample.tokens.begin(), sample.tokens.end());
    if (info.eos_id >= 0) ids.push_back(info.eos_id);
    writer.add_document("train", ids, text_bytes(tokenizer, ids));
    tokens += ids.size();
    console.progress(cat(i + 1, "/", flags.sequences, " sequences"), false);
  }
  writer.finish();
  console.note(cat("wrote ", flags.output.string(), ": ", flags.sequences, " sequences, ",
                   human_count(static_cast<double>(tokens)), " tokens"));
}

}  // namespace

void add_data_probes(CLI::App& data) {
  auto* verb = data.add_subcommand("probes", "Generate a corpus of memory tasks to train on");
  auto flags = std::make_shared<ProbesFlags>();
  flags->options.lengths = {256};
  verb->add_option("corpus", flags->corpus,
                   "corpus file whose tokenizer and text the sequences are made of")
      ->required();
  verb->add_option("--task", flags->tasks, probe_help() + "\ndefault: all")->take_all();
  verb->add_option("--sequences", flags->sequences, "one a document")
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 40))
      ->capture_default_str();
  add_probe_flags(*verb, flags->options, "--");
  verb->add_option("--split", flags->split, "split with the text")->capture_default_str();
  verb->add_option("--output,-o", flags->output, "corpus file (.h5), of one split \"train\"")
      ->required();
  verb->add_flag("--force", flags->force, "replace the output");
  verb->add_flag("--quiet,-q", flags->quiet, "no progress on stderr");
  verb->footer(
      "Example, one sequence in twenty of a run:\n"
      "  kvsmith data probes corpus.h5 --sequences 20000 --length 64 --length 256 --seed 1 "
      "--output "
      "probes.h5\n"
      "  kvsmith train run.toml --set 'data.corpus=[\"corpus.h5\", \"probes.h5\"]' --set "
      "'data.weights=[95, 5]' --output runs/gqa");
  verb->callback([flags] { write_probes(*flags); });
}

}  // namespace kvsmith
