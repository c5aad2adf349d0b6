#include "train/texts.h"

#include <algorithm>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/text.h"
#include "data/packing.h"
#include "data/pairs.h"

namespace kvsmith {
namespace {

void expect_right_kind(const Corpus& corpus, bool learns_pairs, const std::string& path) {
  if (corpus.info().holds_pairs == learns_pairs) return;
  if (learns_pairs) {
    throw Error(ExitCode::kConfig,
                {"holds no pairs of answers, and the run learns from such", path,
                 "build it with `data build --preferences`, or leave preference.method at none"});
  }
  throw Error(ExitCode::kConfig,
              {"holds pairs of a chosen and a rejected answer, and the run learns next tokens",
               path, "set preference.method, such as \"dpo\""});
}

}  // namespace

Texts::Texts(const RunConfig& config) : config_(config) {
  const auto& data = config.data;
  const bool learns_pairs = config.preference.is_wanted();
  for (size_t i = 0; i < data.corpus.size(); ++i) {
    const Corpus& corpus = corpora_.emplace_back(Corpus::open(data.corpus[i]));
    expect_right_kind(corpus, learns_pairs, data.corpus[i]);
    const auto split = corpus.split(data.split);
    const double weight =
        data.weights.empty() ? static_cast<double>(split->tokens()) : data.weights[i];
    training_.push_back({split, weight});
    const auto names = corpus.splits();
    if (validation_ || std::ranges::find(names, data.validation_split) == names.end()) continue;
    validation_ = corpus.split(data.validation_split);
    if (!learns_pairs &&
        validation_->tokens() <= static_cast<uint64_t>(config.train.sequence_length)) {
      throw Error(ExitCode::kBadData,
                  {cat("split \"", data.validation_split, "\" has ", validation_->tokens(),
                       " tokens, fewer than one sequence of ", config.train.sequence_length),
                   data.corpus[i], "lower train.sequence_length or clear data.validation_split"});
    }
  }
}

nlohmann::ordered_json Texts::fingerprints() const {
  auto out = nlohmann::ordered_json::array();
  for (const auto& corpus : corpora_) out.push_back(corpus.fingerprint());
  return out;
}

std::unique_ptr<const BatchSource> Texts::training() const {
  const BatchOptions options{.length = config_.train.sequence_length,
                             .document_mask = config_.data.document_mask,
                             .seed = static_cast<uint64_t>(config_.train.seed)};
  if (config_.preference.is_wanted()) return std::make_unique<PairSource>(training_, options);
  if (config_.data.packing == "bfd") return std::make_unique<PackedSource>(training_, options);
  return std::make_unique<WindowSource>(training_, options);
}

std::unique_ptr<const BatchSource> Texts::validation() const {
  if (!validation_) return nullptr;
  const BatchOptions options{.length = config_.train.sequence_length, .shuffle = false};
  const std::vector<WeightedSplit> splits = {{validation_, 1.0}};
  if (config_.preference.is_wanted()) return std::make_unique<PairSource>(splits, options);
  return std::make_unique<WindowSource>(splits, options);
}

std::vector<std::unique_ptr<const BatchSource>> Texts::pairs() const {
  std::vector<std::unique_ptr<const BatchSource>> out;
  const BatchOptions options{.length = config_.train.sequence_length, .shuffle = false};
  for (const WeightedSplit& split : training_)
    out.push_back(std::make_unique<PairSource>(std::vector<WeightedSplit>{{split.split}}, options));
  if (validation_) out.push_back(validation());
  return out;
}

}  // namespace kvsmith
