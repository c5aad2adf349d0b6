#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <vector>

#include <CLI/CLI.hpp>
#include <c10/util/accumulate.h>

#include "checkpoints/load.h"
#include "checkpoints/model_directory.h"
#include "core/files.h"
#include "core/text.h"
#include "tools/console.h"
#include "tools/text_sample.h"
#include "tools/verbs.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

struct ImportFlags {
  fs::path source, output;
  std::string dtype = "stored";
  TextSample text;
  bool force = false, quiet = false;
};

std::optional<at::ScalarType> type_of(const std::string& name) {
  if (name == "stored") return {};
  return name == "bf16" ? at::kBFloat16 : at::kFloat;
}

/// In which a model that has just been written is scored: bf16 where weights have 16 bits, so that
/// it takes no more memory than they do.
at::ScalarType scored_in(const ModelSource& source, const std::string& dtype) {
  const bool is_narrow = std::ranges::all_of(source.tensors, [](const auto& item) {
    const auto& [shape, type] = item.second;
    return shape.size() < 2 || c10::elementSize(type) <= 2;  // norms may be wider
  });
  return type_of(dtype).value_or(is_narrow ? at::kBFloat16 : at::kFloat);
}

void import(ImportFlags& flags) {
  Console console(flags.quiet);
  expect_model_output(flags.output, flags.force);
  const ModelSource source = open_model(flags.source);
  limit_context(flags.text, source.config.max_position_embeddings, console);
  const std::optional<Tokenizer> tokenizer = described(source).tokenizer;
  std::vector<int32_t> ids;
  if (!flags.text.path.empty()) ids = read_sample(tokenizer, flags.text, source.tokenizer_problem);
  console.note(cat("reading ", source.tensors.size(), " tensors of ", flags.source.string()));
  write_model(source, flags.output, flags.force, {{"imported_from", source.name}},
              type_of(flags.dtype));

  int64_t parameters = 0;
  for (const auto& [name, tensor] : source.tensors)
    parameters += c10::multiply_integers(tensor.shape);
  std::cout << flags.output.string() << ": " << architecture_name(source.config) << ", "
            << human_count(static_cast<double>(parameters)) << " parameters, "
            << (tokenizer ? cat("tokenizer of ", tokenizer->vocab_size(), " tokens")
                          : "no tokenizer")
            << "\n";
  if (!source.tokenizer_problem.empty())
    console.note("the tokenizer was left out: " + source.tokenizer_problem);
  if (ids.empty()) return;
  const at::ScalarType type = scored_in(source, flags.dtype);
  LoadedModel model = load_model(flags.output, {.type = type});
  std::cout << describe(score_text(*model.model, ids, flags.text.context), flags.text)
            << (type == at::kBFloat16 ? " (in bf16)" : "") << "\n";
}

}  // namespace

void add_import(CLI::App& app) {
  auto* verb = app.add_subcommand("import", "Make a checkpoint of a pretrained model");
  auto flags = std::make_shared<ImportFlags>();
  verb->add_option("source", flags->source,
                   "Hugging Face folder (safetensors), GGUF file, or anything that kvsmith wrote")
      ->required();
  verb->add_option("--output,-o", flags->output, "directory of the checkpoint")->required();
  verb->add_option("--dtype", flags->dtype,
                   "of the weights; stored: as in the source, quantised blocks as fp32")
      ->check(CLI::IsMember({"stored", "fp32", "bf16"}))
      ->capture_default_str();
  add_text_flags(*verb, flags->text, "--text",
                 "score this text afterwards: is it a language model?");
  verb->add_flag("--force", flags->force, "replace the output");
  verb->add_flag("--quiet,-q", flags->quiet, "no progress on stderr");
  verb->footer(
      "Examples:\n"
      "  kvsmith import models/SmolLM2-135M --output smollm2 --text wikitext-2/test.txt\n"
      "  kvsmith import smollm2.gguf --output smollm2");
  verb->callback([flags] { import(*flags); });
}

}  // namespace kvsmith
