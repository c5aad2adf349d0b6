#include "train/init_from.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <torch/types.h>

#include "checkpoints/load.h"
#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

constexpr const char* kOutputMatrix = "lm_head.weight";

std::string where(const fs::path& path) { return "train.init_from: " + path.string(); }

/// "2 new (a, b)"; long lists are cut.
std::string counted(const std::vector<std::string>& names, const std::string& what) {
  constexpr size_t kShown = 3;
  if (names.empty()) return "0 " + what;
  std::vector<std::string> shown(names.begin(), names.begin() + std::min(names.size(), kShown));
  if (names.size() > kShown) shown.emplace_back("...");
  return cat(names.size(), " ", what, " (", join(shown), ")");
}

void check_vocabulary(const LoadedModel& source,
                      const DecoderImpl& model,
                      const std::string& tokenizer_sha256,
                      const fs::path& path) {
  const int64_t theirs = source.model->config().vocab_size, ours = model.config().vocab_size;
  if (theirs != ours) {
    throw Error(ExitCode::kConfig,
                {cat("has ", theirs, " token ids, the model ", ours), where(path),
                 "build the corpus with the tokenizer of the checkpoint"});
  }
  if (source.tokenizer && !tokenizer_sha256.empty() &&
      source.tokenizer->sha256() != tokenizer_sha256) {
    throw Error(ExitCode::kConfig,
                {cat("has the tokenizer ", source.tokenizer->sha256(), ", the corpus ",
                     tokenizer_sha256, " (SHA-256)"),
                 where(path), "build the corpus with the tokenizer of the checkpoint"});
  }
}

}  // namespace

std::string init_from(DecoderImpl& model,
                      const fs::path& path,
                      const std::string& tokenizer_sha256) {
  const LoadedModel source = load_model(path);
  check_vocabulary(source, model, tokenizer_sha256, path);

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
    if (found->second.sizes() != tensor.sizes()) {
      problems.push_back(cat(name, " is ", found->second.sizes(), ", expected ", tensor.sizes()));
    }
    copies.emplace_back(tensor, found->second);
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
  return cat("init_from ", path.string(), ": ", copies.size(), " tensors taken, ",
             counted(added, "new"), ", ", counted(unused, "unused"));
}

void expect_outside(const fs::path& source, const fs::path& output) {
  const auto from = fs::weakly_canonical(source), run = fs::weakly_canonical(output);
  if (std::ranges::mismatch(run, from).in1 != run.end()) return;
  throw Error(ExitCode::kConfig,
              {"lies in the run directory " + output.string() + ", whose old checkpoints go",
               where(source), "choose another --output"});
}

}  // namespace kvsmith
