#pragma once

#include <filesystem>
#include <string>

#include "core/random.h"
#include "tests/train/training_runs.h"

namespace kvsmith {

/// A corpus of pairs in splits "train" and "valid" of the tokens of tiny_corpus(). The chosen
/// answer follows the rule of that corpus, the rejected one does not; their lengths differ.
inline std::filesystem::path tiny_pairs(const std::filesystem::path& path, uint64_t pairs = 20) {
  CorpusInfo info;
  info.vocab_size = 67;
  info.bos_id = 1;
  info.eos_id = 2;
  info.marks_learnt = info.holds_pairs = true;
  CorpusWriter writer(path, info);
  for (uint64_t pair = 0; pair < pairs; ++pair) {
    std::vector<int32_t> prompt = {1};
    const auto asked = 3 + hash_of(3, "prompt", pair) % 5;
    for (uint64_t i = 0; i < asked; ++i)
      prompt.push_back(static_cast<int32_t>(3 + hash_of(3, "token", pair, i) % 64));
    for (const uint64_t side : {0, 1}) {
      auto ids = prompt;
      const auto answered = 2 + hash_of(3, "answer", pair, side) % 7;
      for (uint64_t i = 0; i < answered; ++i) {
        const auto any = static_cast<int32_t>(3 + hash_of(3, "wrong", pair, i) % 64);
        ids.push_back(side == 0 ? 3 + (ids.back() * 5 + 7) % 64 : any);
      }
      std::vector<uint8_t> learnt(ids.size(), 1);
      std::fill_n(learnt.begin(), prompt.size(), uint8_t{0});
      const auto* split = pair % 5 == 4 ? "valid" : "train";
      writer.append(split, ids, learnt);
      writer.end_document(split, ids.size());
    }
  }
  writer.finish();
  return path;
}

/// Runs that learn preferences, from the run "base".
class PairRuns : public TrainingRuns {
 protected:
  PairRuns() { train(tiny_run(corpus_), "base"); }

  RunConfig config(const std::string& method = "dpo") const {
    RunConfig run = tiny_run(pairs_);
    run.train.init_from = (directory_ / "base").string();
    run.preference.method = method;
    run.preference.beta = method == "dpo" ? 0.1 : 5;
    return run;
  }

  /// The same with an adapter.
  RunConfig adapted(const std::string& base = "as_is") const {
    RunConfig run = config();
    run.lora.rank = 4;
    run.lora.targets = {"*.q_proj", "*.gate_proj"};
    run.lora.base = base;
    return run;
  }

  std::filesystem::path pairs_ = tiny_pairs(directory_ / "pairs.h5");
};

}  // namespace kvsmith
