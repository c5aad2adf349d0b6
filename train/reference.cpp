#include "train/reference.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include <torch/types.h>

#include "checkpoints/adapter_source.h"
#include "checkpoints/load.h"
#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/text.h"
#include "data/hdf5.h"
#include "models/low_rank.h"
#include "ops/losses.h"
#include "train/kept_answers.h"
#include "train/objective.h"
#include "train/vocabulary.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kBlock = 1024;                               ///< pairs a file
constexpr const char* kLogProbabilities = "log_probabilities";  ///< IEEE 754 binary32

using Scores = std::vector<std::array<float, 2>>;

Hdf5Layout layout(uint64_t rows) {
  return {.type = Hdf5Type::kUint32, .chunk_rows = rows, .columns = 2};
}

void write(const fs::path& path, const Scores& scores) {
  create_parents(path);
  AtomicFile output(path);
  auto file = Hdf5File::create(output.temporary());
  auto data = file.create_dataset(kLogProbabilities, layout(scores.size()));
  data.append(scores.data(), scores.size());
  data.close();
  file.close();
  publish_file(output.temporary(), path);
}

Scores read(const fs::path& path, uint64_t rows) try {
  const auto file = Hdf5File::open(path);
  const auto data = file.open_dataset(kLogProbabilities, layout(rows));
  if (data.rows() != rows) {
    throw Error(ExitCode::kBadData,
                {cat(data.rows(), " rows instead of ", rows), file.where(kLogProbabilities), ""});
  }
  Scores scores(rows);
  data.read(0, rows, scores.data());
  return scores;
} catch (const Error& error) {
  refuse_kept(error);
}

/// One pair of a batch, padded to the longer of its two sequences only.
Batch pair_of(const Batch& batch, int64_t pair) {
  const auto length = static_cast<size_t>(batch.length);
  const auto begin = [&](int64_t side) { return static_cast<size_t>(2 * pair + side) * length; };
  size_t longest = length;
  const auto is_padding = [&](size_t at) {
    return batch.targets[begin(0) + at] < 0 && batch.targets[begin(1) + at] < 0;
  };
  while (longest > 1 && is_padding(longest - 1)) --longest;
  Batch out{.sequences = 2, .length = static_cast<int64_t>(longest)};
  for (const int64_t side : {0, 1}) {
    for (size_t i = begin(side); i < begin(side) + longest; ++i) {
      out.tokens.push_back(batch.tokens[i]);
      out.targets.push_back(batch.targets[i]);
    }
  }
  return out;
}

}  // namespace

at::Tensor answer_log_probabilities(DecoderImpl& model, const Batch& batch) {
  const auto device = model.device();
  std::vector<int64_t> rows, targets;
  for (size_t i = 0; i < batch.targets.size(); ++i) {
    if (batch.targets[i] < 0) continue;
    rows.push_back(static_cast<int64_t>(i));
    targets.push_back(batch.targets[i]);
  }
  const auto on_device = [&](const std::vector<int64_t>& values) {
    return torch::tensor(values, torch::kLong).to(device);
  };
  auto cache = model.make_transient();
  const auto hidden =
      model.step(tensor_of(batch.tokens, batch, device), positions_of(batch, device), cache);
  const auto places = on_device(rows);
  const auto log_p = linear_log_probabilities(hidden.flatten(0, 1).index_select(0, places),
                                              model.head_weight(), on_device(targets));
  return torch::zeros({batch.sequences * batch.length}, log_p.options())
      .index_copy(0, places, log_p)
      .view({batch.sequences / 2, 2, batch.length})
      .sum(2);
}

Reference::Reference(const RunConfig& config,
                     Decoder policy,
                     const std::string& base,
                     std::string tokenizer_sha256)
    : config_(config),
      policy_(std::move(policy)),
      path_(config.preference.reference),
      tokenizer_sha256_(std::move(tokenizer_sha256)) {
  if (path_.empty() && base.empty()) path_ = config.train.init_from;
  if (is_base()) {
    folder_ = cat(kvsmith::fingerprint(base, config.model).substr(0, 16), "-", config.lora.base);
    // what is adapted is what is coded
    if (config.lora.base != "as_is")
      folder_ += "-" + sha256(join(config.lora.targets, "\n")).substr(0, 8);
  } else {
    const ModelSource source = open_model(path_);
    fingerprint_ = kvsmith::fingerprint(kvsmith::fingerprint(source), source.config);
    folder_ = fingerprint_.substr(0, 16);
  }
  folder_ += "-" + config.train.precision;
}

Decoder Reference::load() const {
  LoadedModel loaded = load_model(path_, {.device = policy_->device()});
  expect_same_vocabulary(loaded, policy_->config().vocab_size, tokenizer_sha256_,
                         "preference.reference: " + path_);
  loaded.model->set_compute_type(policy_->compute_type());
  return loaded.model;
}

Reference::Key Reference::key_of(const Batch& pair) {
  auto all = pair.tokens;
  all.insert(all.end(), pair.targets.begin(), pair.targets.end());
  return xxh3_128(all.data(), all.size() * sizeof(all[0]));
}

Reference::PairScores Reference::ask(const Batch& pair) {
  const torch::NoGradGuard no_grad;
  const auto scores_of = [&](DecoderImpl& model) -> PairScores {
    const auto scores = answer_log_probabilities(model, pair).cpu();
    return {scores[0][0].item<float>(), scores[0][1].item<float>()};
  };
  if (!is_base()) {
    if (!model_) model_ = load();
    return scores_of(*model_);
  }
  const WithoutAdapters base(*policy_);
  const bool was_training = policy_->is_training();
  policy_->eval();
  const auto scores = scores_of(*policy_);
  policy_->train(was_training);
  return scores;
}

void Reference::prepare(const std::vector<std::unique_ptr<const BatchSource>>& sources,
                        const std::function<void(const std::string&)>& note) {
  const fs::path folder = fs::path(config_.preference.cache) / folder_;
  sweep_abandoned(folder);
  uint64_t total = 0, done = 0;
  for (const auto& source : sources) total += source->sequences_per_epoch() / 2;
  for (const auto& source : sources) {
    const uint64_t pairs = source->sequences_per_epoch() / 2;
    for (uint64_t first = 0; first < pairs; first += kBlock) {
      const uint64_t count = std::min(kBlock, pairs - first);
      std::vector<Batch> block;
      std::vector<Key> keys;
      for (uint64_t pair = first; pair < first + count; ++pair) {
        block.push_back(pair_of(source->make(2 * pair, 2), 0));
        keys.push_back(key_of(block.back()));
      }
      done += count;
      const auto name = sha256({reinterpret_cast<const char*>(keys.data()), count * sizeof(Key)});
      const auto path = folder / (name.substr(0, 32) + ".h5");
      Scores scores;
      if (fs::exists(path)) {
        scores = read(path, count);
      } else {
        for (const Batch& pair : block) scores.push_back(ask(pair));
        write(path, scores);
        note(cat("reference asked about ", done, " of ", total, " pairs"));
      }
      for (uint64_t i = 0; i < count; ++i) known_[keys[i]] = scores[i];
    }
  }
  model_ = nullptr;
}

at::Tensor Reference::log_probabilities(const Batch& batch) {
  std::vector<float> all;
  for (int64_t i = 0; i < batch.sequences / 2; ++i) {
    const Batch pair = pair_of(batch, i);
    const auto known = known_.empty() ? known_.end() : known_.find(key_of(pair));
    const PairScores scores = known == known_.end() ? ask(pair) : known->second;
    all.insert(all.end(), scores.begin(), scores.end());
  }
  return torch::tensor(all).view({-1, 2}).to(policy_->device());
}

}  // namespace kvsmith
