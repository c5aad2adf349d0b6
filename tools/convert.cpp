#include "convert/convert.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <memory>

#include <CLI/CLI.hpp>
#include <torch/types.h>

#include "checkpoints/load.h"
#include "checkpoints/model_directory.h"
#include "configs/run_config.h"
#include "convert/refit.h"
#include "core/error.h"
#include "core/files.h"
#include "core/text.h"
#include "evaluate/perplexity.h"
#include "tools/console.h"
#include "tools/model_flags.h"
#include "tools/text_sample.h"
#include "tools/verbs.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

struct ConvertFlags {
  ModelFlags source;
  std::vector<fs::path> recipes;
  std::vector<std::string> assignments;
  fs::path output;
  std::string pooling = "fit";
  TextSample text, score;
  uint64_t seed = 0;
  bool force = false, quiet = false;
};

/// Perplexity and measured cache of one side of a conversion. Returns the bytes at 8k tokens.
int64_t describe_side(const char* side,
                      DecoderImpl& model,
                      const std::vector<int32_t>& ids,
                      const TextSample& sample) {
  const int64_t context = sample.context;
  std::cout << side << architecture_name(model.config());
  const auto at_context = measure_cache(model, context).bytes_used;
  const auto longest = measure_cache(model, kLongestMeasured).bytes_used;
  std::cout << ": " << at_context / context << " bytes a token at " << context << ", "
            << human_bytes(static_cast<double>(longest)) << " at 8k";
  if (!ids.empty()) std::cout << "; " << describe(score_text(model, ids, context), sample);
  std::cout << "\n";
  return longest;
}

/// The model with its tensors by name, for writing.
ModelSource source_of(const DecoderImpl& model, const ModelSource& original) {
  ModelSource out = original;
  out.config = model.config();
  out.tensors.clear();
  std::map<std::string, at::Tensor> all;
  for (const auto& [name, tensor] : named_parameters(model)) {
    out.tensors[name] = {tensor.sizes().vec(), tensor.scalar_type()};
    all[name] = tensor.detach();
  }
  out.read = [all](const std::string& name) { return all.at(name); };
  out.step = out.tokens_seen = 0;
  return out;
}

/// Converts and writes; what the conversion needs is freed when it is done.
void convert_and_write(const ConvertFlags& flags,
                       const ModelSource& original,
                       DecoderImpl& model,
                       const std::vector<int32_t>& calibration) {
  const RunConfig base = run_config_of(sizes_of(original.config));
  const ModelConfig target = load_run_config(flags.recipes, flags.assignments, base).model;
  const auto pooling = flags.pooling == "mean" ? Pooling::kMean : Pooling::kFit;
  check_convertible(model, target, pooling);
  Moments moments(target);
  if (!calibration.empty())
    moments = Moments::of(model, calibration, flags.text.context, moments_needed(model, target));
  Conversion out = convert(model, target, moments, pooling, flags.seed);
  for (const auto& origin : out.origins) std::cout << origin.tensor << ": " << origin.from << "\n";
  const bool is_fitted = std::ranges::any_of(out.origins, &Origin::is_fitted);
  std::cout << (is_fitted ? "queries and outputs adapted to these; " : "")
            << "everything else as it was\n";
  if (pooling == Pooling::kFit && !calibration.empty()) {
    const RefitErrors errors = refit_outputs(model, *out.model, calibration, flags.text.context);
    const auto percent = [](double share) { return std::round(1000 * share) / 10; };
    std::cout << "outputs refit to the calibration text: they missed " << percent(errors.before)
              << " % of what the residual stream wants, now " << percent(errors.after) << " %\n";
  }
  std::cout << "\n";
  write_model(source_of(*out.model, original), flags.output, flags.force,
              {{"converted_from", original.name}, {"pooling", flags.pooling}});
}

void convert_it(ConvertFlags& flags) {
  expect_model_output(flags.output, flags.force);
  Console console(flags.quiet);
  const ModelSource original = open_model(flags.source.checkpoint);
  const int64_t longest = original.config.max_position_embeddings;
  limit_context(flags.text, longest, console);
  limit_context(flags.score, longest, console);
  if (flags.score.path.empty()) {
    flags.score.path = flags.text.path;
    if (!flags.score.has_tokens) flags.score.tokens = flags.text.tokens;
    if (!flags.score.has_context) flags.score.context = flags.text.context;
  }
  LoadedModel source = load(flags.source);
  std::vector<int32_t> calibration, ids;
  const auto read = [&](const TextSample& sample) {
    return read_sample(source.tokenizer, sample, original.tokenizer_problem);
  };
  if (!flags.text.path.empty()) calibration = read(flags.text);
  if (!flags.score.path.empty()) ids = read(flags.score);
  const auto tokens = static_cast<int64_t>(calibration.size());
  if (tokens > 0 && tokens < 2 * original.config.hidden_size) {
    console.note(cat("a calibration text of ", tokens, " tokens is short for ",
                     original.config.hidden_size, " features: expect a poor fit"));
  }
  convert_and_write(flags, original, *source.model, calibration);
  const auto before = describe_side("before  ", *source.model, ids, flags.score);
  source.model = nullptr;
  const auto after = describe_side("after   ", *load_model(flags.output).model, ids, flags.score);
  if (after >= before) std::cout << "the cache at 8k is no smaller than before\n";
}

}  // namespace

void add_convert(CLI::App& app) {
  auto* verb = app.add_subcommand("convert", "Give a pretrained model a smaller KV cache");
  auto flags = std::make_shared<ConvertFlags>();
  verb->add_option("source", flags->source.checkpoint,
                   "run directory, checkpoint, GGUF file, or exported folder or file")
      ->required();
  verb->add_option("--threads", flags->source.threads, "CPU threads; 0: all cores")
      ->check(CLI::Range(0, 4096));
  verb->add_option("--to", flags->recipes,
                   "configuration whose [model] says what changes, such as "
                   "configs/architectures/cla.toml; later files win")
      ->required();
  verb->add_option("--set", flags->assignments, "model.KEY=VALUE, over the files; may be repeated")
      ->take_all();
  verb->add_option("--output,-o", flags->output, "directory of the checkpoint")->required();
  verb->add_option("--pooling", flags->pooling,
                   "how heads and layers that are to share are joined: fit (least squares) or mean")
      ->check(CLI::IsMember({"fit", "mean"}))
      ->capture_default_str();
  add_text_flags(*verb, flags->text, "--calibration",
                 "text that fits look at; without one they see weights alone");
  add_text_flags(*verb, flags->score, "--score",
                 "text to score; default: that of --calibration, read as that is");
  verb->add_option("--seed", flags->seed, "of new parameters");
  verb->add_flag("--force", flags->force, "replace the output");
  verb->add_flag("--quiet,-q", flags->quiet, "no progress on stderr");
  verb->footer(
      "Examples:\n"
      "  kvsmith convert smollm2 --to configs/architectures/mqa.toml --calibration novels.txt \\\n"
      "      --score wikitext-2/test.txt --output smollm2-mqa\n"
      "  kvsmith train smollm2-mqa/config.toml configs/heal.toml --output runs/smollm2-mqa \\\n"
      "      --set data.corpus=c.h5 train.init_from=smollm2-mqa distill.teacher=smollm2");
  verb->callback([flags] { convert_it(*flags); });
}

}  // namespace kvsmith
