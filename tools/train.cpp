#include <array>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>

#include <CLI/CLI.hpp>

#include "core/error.h"
#include "core/process.h"
#include "core/text.h"
#include "models/footprint.h"
#include "tools/console.h"
#include "tools/estimate.h"
#include "tools/verbs.h"
#include "train/run.h"

namespace kvsmith {
namespace {

struct Flags {
  std::vector<std::filesystem::path> configs;
  std::vector<std::string> assignments;
  RunOptions run;
  bool dry_run = false, quiet = false;
};

std::string keys_help() {
  std::string out = "Configuration keys (section.key = default: meaning):\n";
  for (const auto& key : all_keys()) {
    out += cat("  ", key.path, " = ", to_toml(key.value), ": ", key.key.help, "\n");
  }
  return out +
         "\nExamples:\n"
         "  kvsmith train configs/shakespeare-gqa.toml --output runs/gqa\n"
         "  kvsmith train base.toml mine.toml --set train.seed=1 --output runs/seed1\n"
         "  kvsmith train configs/gqa-1b.toml --dry-run\n"
         "Run it again with the same arguments to resume after an interruption.";
}

std::string step_line(const StepReport& report, int64_t total, double mfu, double remaining) {
  std::array<char, 200> text{};
  std::snprintf(
      text.data(), text.size(), "step %lld%s  loss %.4f  lr %.2e  grad %.3f  %s tok/s  mfu %.0f%%",
      static_cast<long long>(report.step), total > 0 ? cat("/", total).c_str() : "", report.loss,
      report.learning_rate, report.grad_norm,
      human_count(static_cast<double>(report.batch_tokens) / report.seconds).c_str(), 100 * mfu);
  std::string line = text.data();
  for (const auto& [name, value] : report.auxiliary) {
    std::snprintf(text.data(), text.size(), "  %s %.4g", name.c_str(), value);
    line += text.data();
  }
  if (remaining >= 0) line += "  eta " + human_seconds(remaining);
  if (report.skipped) line += "  SKIPPED (not finite)";
  return line;
}

void dry_run(RunConfig config) {
  if (!config.data.corpus.empty() &&
      (config.model.vocab_size == 0 || std::filesystem::exists(config.data.corpus[0]))) {
    take_vocabulary(config);
  }
  std::cout << to_toml(config) << "\n" << estimate_text(config, Serving{});
  for (const auto& text : advice(config)) std::cout << "note: " << text << "\n";
}

int train(const Flags& flags) {
  const RunConfig config = load_run_config(flags.configs, flags.assignments);
  if (flags.dry_run) {
    dry_run(config);
    return 0;
  }
  if (flags.run.output.empty()) {
    throw Error(ExitCode::kUsage, {"no run directory is given", "train", "add --output RUN_DIR"});
  }
  Console console(flags.quiet);
  RunHooks hooks;
  hooks.note = [&](const std::string& text) { console.note(text); };
  for (const auto& text : advice(config)) console.note("note: " + text);
  hooks.on_step = [&](const StepReport& report, int64_t total, double mfu, double remaining) {
    const bool logs =
        report.step % config.train.log_every == 0 || report.step == total || report.skipped;
    console.progress(step_line(report, total, mfu, remaining), logs);
  };
  hooks.on_validation = [&](int64_t step, const Validation& validation) {
    std::string line = cat("step ", step, "  validation loss ", validation.loss);
    if (!config.preference.is_wanted()) line += cat("  perplexity ", std::exp(validation.loss));
    for (const auto& [name, value] : validation.figures) line += cat("  ", name, " ", value);
    console.note(line);
  };
  const RunResult result = run_training(config, flags.run, hooks);
  if (result.signal != 0 && !result.finished) {
    console.note(cat("interrupted by signal ", result.signal, "; run the same command to resume"));
    return 128 + result.signal;
  }
  console.note(cat(result.finished ? "finished: " : "time is up: ", result.checkpoint.string(),
                   ", peak memory ", human_bytes(static_cast<double>(peak_resident_bytes()))));
  return 0;
}

}  // namespace

void add_train(CLI::App& app, int& exit_code) {
  auto* verb = app.add_subcommand("train", "Train a model, or resume a run");
  auto flags = std::make_shared<Flags>();
  verb->add_option("config", flags->configs, "TOML files; later ones win")->required();
  verb->add_option("--output,-o", flags->run.output, "run directory");
  verb->add_option("--set", flags->assignments, "section.key=value; may be repeated")->take_all();
  verb->add_option("--resume", flags->run.resume, "auto, never, or a checkpoint directory")
      ->capture_default_str();
  verb->add_option("--accept", flags->run.accept,
                   "key that may differ from the checkpoint's; may be repeated")
      ->take_all();
  verb->add_flag("--force", flags->run.force, "with --resume never: replace the run that is there");
  verb->add_flag("--dry-run", flags->dry_run,
                 "print the resolved configuration and what it costs; start nothing");
  verb->add_flag("--quiet,-q", flags->quiet, "no progress on stderr");
  verb->footer(keys_help);
  verb->callback([flags, &exit_code] { exit_code = train(*flags); });
}

}  // namespace kvsmith
