#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "checkpoints/load.h"
#include "data/corpus.h"
#include "evaluate/cache_measurement.h"
#include "evaluate/method_score.h"
#include "evaluate/probes.h"
#include "evaluate/protocol.h"
#include "evaluate/recall.h"

namespace kvsmith {

struct EvaluateOptions {
  std::string split = "valid";
  int64_t context = 0;  ///< tokens a window; 0: max_position_embeddings
  int64_t stride = 0;   ///< tokens between windows of a document; 0: context, no overlap
  Protocol protocol = Protocol::kDecode;
  std::optional<CacheConfig> cache = {};  ///< what is done to the cache; none: nothing
  int64_t prefill = 0;     ///< tokens of the first step, prefill_continue only; 0: half the context
  int64_t chunk = 64;      ///< tokens a step, chunked only
  int64_t max_tokens = 0;  ///< tokens scored; 0: the whole split
  int64_t batch = 16;      ///< windows scored side by side
  bool unigram = false;    ///< also score a unigram model of the split "train"
  bool recall = false;     ///< also probe exact memory, evaluate/recall.h
  /// Also score whole windows with each of these forward_passes, of layers that read ahead (LCKV).
  std::vector<int64_t> passes = {};
  std::vector<std::string> probes = {};  ///< names of tasks to probe, evaluate/probe_tasks.h
  ProbeOptions probe = {};
  bool measures_lengths = true;  ///< also measure the cache at lengths beside the context
  /// Measured before, of this model and context; none: evaluate() measures.
  std::optional<CacheLengths> cache_lengths = {};
};

/// The loss of training's parallel passes over the same tokens.
struct PassesLoss {
  int64_t forward_passes = 0;
  double nll = 0;  ///< sum over scored tokens
};

struct Evaluation {
  EvaluateOptions options;
  uint64_t documents = 0;
  int64_t tokens = 0;                   ///< scored: those learnt, where the corpus marks them
  double nll = 0;                       ///< sum over scored tokens, in nats, accumulated in fp64
  std::optional<double> bits_per_byte;  ///< none without a tokenizer
  std::optional<double> unigram_nll;    ///< over the same tokens
  CacheMeasurement cache;               ///< after a full window
  std::optional<CacheLengths> cache_lengths;
  std::vector<RecallPoint> recall;
  std::vector<ProbePoint> probes;
  std::vector<PassesLoss> passes;
  int64_t cache_bytes_peak = 0;       ///< most reserved at any time, per sequence
  double decode_vs_parallel = 0;      ///< largest logit difference on a sample
  std::optional<MethodScore> method;  ///< of options.cache, and of every protocol with steps
  double replay_vs_decode = 0;        ///< relative difference of the losses, replay only
  double seconds = 0;

  double nll_per_token() const { return nll / static_cast<double>(tokens); }
};

/// Scores every token of every document but its first (of a corpus that marks what is learnt: every
/// learnt one), given at most `context` tokens before it in
/// the same document. A document is cut into windows that start `stride` apart; a token is scored
/// in the first window that holds it. Throws Error 70 when measured cache bytes are not those of
/// the formula, 80 when the result is not finite, 64 for options out of range or unknown probes, 78
/// when corpus and model have different tokenizers.
Evaluation evaluate(LoadedModel& model,
                    const Corpus& corpus,
                    EvaluateOptions options,
                    const std::function<void(int64_t tokens, int64_t total)>& on_progress = {});

/// Throws Error (78) when corpus and model have different tokenizers or numbers of token ids.
void check_fits(const Corpus& corpus, const LoadedModel& model);

/// The result with the keys that reports and scripts rely on; docs/evaluation.md lists them.
nlohmann::ordered_json to_json(const Evaluation& evaluation,
                               const LoadedModel& model,
                               const std::string& corpus);

}  // namespace kvsmith
