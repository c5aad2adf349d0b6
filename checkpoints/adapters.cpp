#include "checkpoints/adapters.h"

#include <algorithm>
#include <utility>

#include <torch/types.h>

#include "checkpoints/adapter_source.h"
#include "checkpoints/own_checkpoint.h"
#include "core/error.h"
#include "core/text.h"
#include "models/low_rank.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

/// The path, and the name where one is given.
std::pair<fs::path, std::string> parted(const std::string& word) {
  const size_t at = word.find('=');
  // a path may have such a sign too, as in "runs/rank=8"
  if (at == word.npos || word.find('/') < at) return {word, ""};
  if (at == 0 || at + 1 == word.size())
    throw Error(ExitCode::kUsage, {in_quotes(word), "--adapter", "write NAME=PATH, or PATH"});
  return {word.substr(at + 1), word.substr(0, at)};
}

/// A model on the same storage as `base`, with an adapter of its own.
Decoder beside(const DecoderImpl& base, const OwnCheckpoint& adapter) {
  const torch::NoGradGuard no_grad;
  Decoder model(base.config());
  const auto theirs = named_parameters(base);
  auto own = named_parameters(*model);
  for (size_t i = 0; i < own.size(); ++i) own[i].second.set_data(theirs[i].second);
  add_adapters(*model, adapter.config.lora, /*seed=*/0);
  load_into(adapter_parameters(*model), *adapter.tensors);
  model->to(base.compute_type());  // of the adapter: the rest has it, and stays where it is
  model->set_compute_type(base.compute_type());
  for (auto& parameter : model->parameters()) parameter.set_requires_grad(false);
  model->eval();
  return model;
}

}  // namespace

std::vector<LoadedModel> load_adapters(const LoadedModel& base,
                                       const std::vector<std::string>& words) {
  std::vector<LoadedModel> out;
  if (words.empty()) return out;
  const ModelSource source = open_model(base.path);
  const std::string weights = fingerprint(source);
  for (const auto& word : words) {
    const auto [path, name] = parted(word);
    const OwnCheckpoint adapter = read_adapter_checkpoint(path);
    if (adapter.base() != weights) {
      throw Error(
          ExitCode::kConfig,
          {cat("an adapter of other weights than those of ", base.path.string()), path.string(),
           cat("give the model that it was learned for, ", adapter.config.train.init_from)});
    }
    expect_same_model(adapter.config.model, source.config, path.string());
    ModelSource about = source;
    describe(about, adapter);
    LoadedModel& model = out.emplace_back(described(about));
    model.model = beside(*base.model, adapter);
    if (!name.empty()) model.name = name;
    const bool is_taken =
        model.name == base.name || std::ranges::count(out, model.name, &LoadedModel::name) > 1;
    if (is_taken)
      throw Error(ExitCode::kUsage, {"the name " + in_quotes(model.name) + " is taken",
                                     "--adapter " + word, "write NAME=PATH"});
  }
  return out;
}

}  // namespace kvsmith
