#include <filesystem>
#include <memory>

#include <CLI/CLI.hpp>

#include "checkpoints/model_directory.h"
#include "checkpoints/own_checkpoint.h"
#include "core/text.h"
#include "tools/console.h"
#include "tools/verbs.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

struct MergeFlags {
  fs::path run, output;
  std::string dtype = "fp32";
  bool force = false, quiet = false;
};

void merge(const MergeFlags& flags) {
  Console console(flags.quiet);
  expect_model_output(flags.output, flags.force);
  const RunConfig config = read_adapter_checkpoint(flags.run).config;  // before its base is read
  const ModelSource source = open_model(flags.run);
  write_model(source, flags.output, flags.force,
              {{"merged_from", flags.run.string()}, {"base", config.train.init_from}},
              flags.dtype == "bf16" ? at::kBFloat16 : at::kFloat);
  console.note(cat("wrote ", flags.output.string(), ": ", config.train.init_from,
                   " with the adapter of ", flags.run.string()));
}

}  // namespace

void add_merge(CLI::App& app) {
  auto* verb = app.add_subcommand("merge", "Make one model of a model and its trained adapter");
  auto flags = std::make_shared<MergeFlags>();
  verb->add_option("run", flags->run, "run or checkpoint that was trained with lora.rank")
      ->required();
  verb->add_option("--output,-o", flags->output, "directory of the model")->required();
  verb->add_option("--dtype", flags->dtype, "of the weights")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  verb->add_flag("--force", flags->force, "replace the output");
  verb->add_flag("--quiet,-q", flags->quiet, "no progress on stderr");
  verb->footer("Examples:\n  kvsmith merge runs/chat-lora --output chat");
  verb->callback([flags] { merge(*flags); });
}

}  // namespace kvsmith
