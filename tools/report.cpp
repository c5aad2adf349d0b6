#include "report/report.h"

#include <filesystem>
#include <iostream>
#include <memory>

#include <CLI/CLI.hpp>

#include "core/files.h"
#include "core/text.h"
#include "tools/console.h"
#include "tools/verbs.h"

namespace kvsmith {
namespace {

struct Flags {
  std::vector<std::filesystem::path> runs;
  std::filesystem::path output;
  std::string title = "Cache memory against perplexity";
  bool force = false, quiet = false;
};

void report(const Flags& flags) {
  expect_writable(flags.output, flags.force);
  Console console(flags.quiet);
  const auto runs = read_runs(flags.runs, [&](const std::filesystem::path& file) {
    console.note(cat(file.string(), " is given twice; it is listed once"));
  });
  write_report(runs, flags.output, flags.title);
  std::cout << report_table(runs);
  console.note(cat("wrote ", flags.output.string()));
}

}  // namespace

void add_report(CLI::App& app) {
  auto* verb = app.add_subcommand("report", "Put runs on the memory-perplexity plane");
  auto flags = std::make_shared<Flags>();
  verb->add_option("runs", flags->runs, "run directories, sweep directories, evaluation files")
      ->required();
  verb->add_option("--output,-o", flags->output,
                   "HTML file; .csv, .json and .svg of the same name go beside it")
      ->required();
  verb->add_option("--title", flags->title, "of the page")->capture_default_str();
  verb->add_flag("--force", flags->force, "replace the output");
  verb->add_flag("--quiet,-q", flags->quiet, "no progress on stderr");
  verb->footer(
      "Examples:\n"
      "  kvsmith report runs/mha runs/gqa runs/mqa --output report.html\n"
      "  kvsmith evaluate --sweep sweep.toml --output sweep/\n"
      "  kvsmith report sweep/ --output sweep.html");
  verb->callback([flags] { report(*flags); });
}

}  // namespace kvsmith
