#include <algorithm>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <memory>
#include <sstream>

#include <CLI/CLI.hpp>

#include "core/error.h"
#include "core/files.h"
#include "core/random.h"
#include "core/text.h"
#include "evaluate/perplexity.h"
#include "evaluate/probe_tasks.h"
#include "tools/console.h"
#include "tools/model_flags.h"
#include "tools/verbs.h"
#include "train/head_gates.h"

namespace kvsmith {
namespace {

constexpr int64_t kUsualContext = 512;
constexpr int64_t kLogEvery = 10;  // steps
// Those before are what evaluations ask, and `data probes` writes.
constexpr uint64_t kFirstSample = uint64_t{1} << 32;

struct Flags {
  ModelFlags model;
  std::filesystem::path corpus, output;
  std::string method, split = "train";
  HeadGateOptions learning;
  ProbeOptions probe{.key_tokens = 32};
  int64_t context = 0;
  bool force = false, quiet = false;
};

/// Sets the context where none was given, and checks it.
void choose_context(Flags& flags, int64_t longest, Console& console) {
  if (flags.context == 0) flags.context = std::min(kUsualContext, longest);
  if (flags.context > longest) {
    console.note(cat("context ", flags.context, " is longer than the model's ",
                     "max_position_embeddings, ", longest, ": later positions are new to it"));
  }
  const int64_t seen = flags.learning.sinks + flags.learning.window;
  if (flags.context > seen) return;
  throw Error(ExitCode::kUsage,
              {cat(flags.learning.sinks, " sinks and a window of ", flags.learning.window,
                   " hide nothing in ", flags.context, " tokens"),
               "calibrate", "give a longer --context, or less --sinks and --window"});
}

/// Passkeys at depths that are drawn, from 5 % to 95 % of the filler as published.
GateSamples passkeys(const Flags& flags, const ProbeText& text) {
  const ProbeTask& task = probe_task("passkey");
  return [&flags, &text, &task](uint64_t count) {
    const uint64_t index = kFirstSample + count;
    const double depth = 0.05 + 0.9 * uniform(flags.probe.seed, "passkey depth", index);
    auto sample = make_sample(task, text, flags.probe, flags.context, depth, index);
    GateSample out{.tokens = std::move(sample.tokens), .answers = {}};
    for (const TokenSpan& of : sample.answers) out.answers.push_back({of.first, of.count});
    return out;
  };
}

std::string step_line(const HeadGateStep& done, int64_t steps, double seconds) {
  std::ostringstream out;
  out << std::fixed << "step " << done.step << "/" << steps << std::setprecision(5)
      << "  difference " << done.difference << std::setprecision(3) << "  mean gate "
      << done.mean_gate << "  lr " << done.learning_rate << std::setprecision(2) << "  "
      << done.seconds << " s  eta "
      << human_seconds(seconds / static_cast<double>(done.step) *
                       static_cast<double>(steps - done.step));
  return std::move(out).str();
}

void print(const HeadGatesFile& learned) {
  int64_t heads = 0, above = 0;
  std::cout << "layer  gates of key/value heads\n" << std::fixed << std::setprecision(2);
  for (const auto& of : learned.layers) {
    std::cout << std::setw(5) << of.layer << " ";
    for (const double gate : of.gates) std::cout << std::setw(6) << gate;
    std::cout << "\n";
    heads += std::ssize(of.gates);
    above += std::ranges::count_if(of.gates, [](double gate) { return gate > 0.5; });
  }
  std::cout << above << " of " << heads << " heads are above 0.5\n";
}

void calibrate(Flags& flags) {
  expect_writable(flags.output, flags.force);
  const Corpus corpus = Corpus::open(flags.corpus);
  LoadedModel model = load(flags.model);
  check_fits(corpus, model);
  Console console(flags.quiet);
  choose_context(flags, model.model->config().max_position_embeddings, console);
  const auto text = ProbeText::of_corpus(corpus, flags.split);

  const int64_t steps = flags.learning.steps;
  double seconds = 0;
  const auto learned = learn_head_gates(
      *model.model, flags.learning, passkeys(flags, text), [&](const HeadGateStep& done) {
        seconds += done.seconds;
        console.progress(step_line(done, steps, seconds),
                         done.step % kLogEvery == 0 || done.step == steps);
      });
  write_head_gates(flags.output, learned);
  print(learned);
  console.note(cat("wrote ", flags.output.string(), " after ", human_seconds(seconds)));
}

}  // namespace

void add_calibrate(CLI::App& app) {
  auto* verb = app.add_subcommand("calibrate", "Learn what a cache method has to know of a model");
  auto flags = std::make_shared<Flags>();
  HeadGateOptions& learning = flags->learning;
  constexpr int64_t kMost = int64_t{1} << 30;
  const CLI::Range count(int64_t{1}, kMost);
  add_model_flags(*verb, flags->model);
  verb->add_option("--method", flags->method,
                   "duo: which key/value heads need all of their rows, and which only the first "
                   "and last")
      ->check(CLI::IsMember({"duo"}))
      ->required();
  verb->add_option("--corpus", flags->corpus,
                   "corpus file made by `data build`, whose text hides the passkeys")
      ->required();
  verb->add_option("--split", flags->split, "split with the text")->capture_default_str();
  verb->add_option("--output,-o", flags->output, "gates file (.json)")->required();
  verb->add_option("--steps", learning.steps, "optimizer steps")
      ->check(count)
      ->capture_default_str();
  verb->add_option("--batch", learning.batch, "sequences a step")
      ->check(count)
      ->capture_default_str();
  verb->add_option("--context", flags->context,
                   cat("tokens of a sequence; 0: ", kUsualContext,
                       ", or max_position_embeddings where that is less"))
      ->check(CLI::Range(int64_t{0}, kMost));
  verb->add_option("--sinks", learning.sinks, "first tokens that a streaming head sees")
      ->check(CLI::Range(int64_t{0}, kMost))
      ->capture_default_str();
  verb->add_option("--window", learning.window, "last tokens that a streaming head sees")
      ->check(count)
      ->capture_default_str();
  verb->add_option("--learning-rate", learning.learning_rate, "peak learning rate")
      ->check(CLI::Range(0.0, 10.0))
      ->capture_default_str();
  verb->add_option("--regularisation", learning.regularisation,
                   "weight of the mean gate beside the difference that gates make")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  verb->add_option("--key-tokens", flags->probe.key_tokens, "of a passkey")
      ->check(count)
      ->capture_default_str();
  verb->add_option("--seed", flags->probe.seed, "of the sequences")->capture_default_str();
  verb->add_flag("--force", flags->force, "replace the output");
  verb->add_flag("--quiet,-q", flags->quiet, "no progress on stderr");
  verb->footer(
      "Weights stay as they are. See docs/evaluation.md, Head gates.\n"
      "Example:\n"
      "  kvsmith calibrate runs/gqa --method duo --corpus corpus.h5 --output gates.json");
  verb->callback([flags] { calibrate(*flags); });
}

}  // namespace kvsmith
