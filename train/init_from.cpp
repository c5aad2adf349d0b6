#include "train/init_from.h"

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <torch/types.h>

#include "checkpoints/load.h"
#include "checkpoints/own_checkpoint.h"
#include "core/error.h"
#include "core/text.h"
#include "train/vocabulary.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

std::string where(const fs::path& path) { return "train.init_from: " + path.string(); }

/// "2 new (a, b)"; long lists are cut.
std::string counted(const std::vector<std::string>& names, const std::string& what) {
  constexpr size_t kShown = 3;
  if (names.empty()) return "0 " + what;
  std::vector<std::string> shown(names.begin(), names.begin() + std::min(names.size(), kShown));
  if (names.size() > kShown) shown.emplace_back("...");
  return cat(names.size(), " ", what, " (", join(shown), ")");
}

/// Heads that a layer computes of its keys or values.
std::vector<int64_t> own_heads(int64_t heads, const std::vector<int64_t>& reused) {
  std::vector<int64_t> out;
  for (int64_t head = 0; head < heads; ++head)
    if (std::ranges::find(reused, head) == reused.end()) out.push_back(head);
  return out;
}

/// Of a key or value projection, the rows of the heads that `model` does not reuse (KV-CAR),
/// undefined where one of them is not there; every other parameter as it is.
at::Tensor own_rows(const std::string& name,
                    const at::Tensor& tensor,
                    const DecoderImpl& source,
                    const DecoderImpl& model) {
  constexpr std::string_view kLayers = "model.layers.";
  const bool keys = name.find(".self_attn.k_proj.") != std::string::npos;
  if (!keys && name.find(".self_attn.v_proj.") == std::string::npos) return tensor;
  const int64_t layer = std::stoll(name.substr(kLayers.size()));
  const LayerSpec &from = source.graph()[layer], &to = model.graph()[layer];
  if (from.kv_heads != to.kv_heads || (!from.reuses_heads() && !to.reuses_heads())) return tensor;
  const auto there = own_heads(from.kv_heads, keys ? from.reused_keys : from.reused_values);
  const auto wanted = own_heads(to.kv_heads, keys ? to.reused_keys : to.reused_values);
  if (!std::ranges::includes(there, wanted)) return {};
  std::vector<int64_t> places;
  for (const int64_t head : wanted)
    places.push_back(std::ranges::find(there, head) - there.begin());
  const auto count = static_cast<int64_t>(there.size());
  return tensor.unflatten(0, {count, tensor.size(0) / count})
      .index_select(0, torch::tensor(places, tensor.device()))
      .flatten(0, 1);
}

}  // namespace

InitialWeights init_from(DecoderImpl& model,
                         const fs::path& path,
                         const std::string& tokenizer_sha256) {
  const LoadedModel source = load_model(path);
  expect_same_vocabulary(source, model.config().vocab_size, tokenizer_sha256, where(path));

  const auto wanted = named_parameters(model);
  std::map<std::string, at::Tensor> there;
  for (const auto& [name, tensor] : named_parameters(*source.model)) there[name] = tensor;
  // a model that unties what the source has tied begins with the same logits
  if (!model.config().tie_word_embeddings)
    there.emplace(kOutputMatrix, source.model->head_weight());

  std::vector<std::string> added, problems;
  std::vector<std::pair<at::Tensor, at::Tensor>> copies;  // to, from
  for (const auto& [name, tensor] : wanted) {
    const auto found = there.find(name);
    if (found == there.end()) {
      added.push_back(name);
      continue;
    }
    const auto taken = own_rows(name, found->second, *source.model, model);
    if (!taken.defined())
      problems.push_back(cat(name, " has other heads: those that are reused there are needed"));
    else if (taken.sizes() != tensor.sizes())
      problems.push_back(cat(name, " is ", taken.sizes(), ", expected ", tensor.sizes()));
    copies.emplace_back(tensor, taken);
    there.erase(found);
  }
  if (!problems.empty()) {
    throw Error(ExitCode::kConfig,
                {"parameters of another shape than the model's: " + join(problems, "; "),
                 where(path), "give both models the same sizes"});
  }
  const torch::NoGradGuard no_grad;
  for (auto& [to, from] : copies) to.copy_(from);
  std::vector<std::string> unused;
  for (const auto& [name, tensor] : there) unused.push_back(name);
  return {cat("init_from ", path.string(), ": ", copies.size(), " tensors taken, ",
              counted(added, "new"), ", ", counted(unused, "unused")),
          token_ids_json(source.bos_id, source.eos_id, source.end_ids)};
}

void expect_outside(const fs::path& source, const fs::path& output, const std::string& key) {
  const auto from = fs::weakly_canonical(source), run = fs::weakly_canonical(output);
  if (std::ranges::mismatch(run, from).in1 != run.end()) return;
  throw Error(ExitCode::kConfig,
              {"lies in the run directory " + output.string() + ", whose old checkpoints go",
               key + ": " + source.string(), "choose another --output"});
}

}  // namespace kvsmith
