#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "evaluate/probe_tasks.h"
#include "models/decoder.h"

namespace kvsmith {

/// A batch of texts being read: takes their next tokens, [batch, seq], and gives the logits of what
/// follows, [batch, vocab_size].
using Reader = std::function<at::Tensor(const at::Tensor& next)>;
/// Begins `batch` texts of at most `length` tokens.
using OpenReader = std::function<Reader(int64_t batch, int64_t length)>;
/// Makes an empty cache: the model's own, or one of a cache method.
using MakeCache = std::function<KvCache(const CacheOptions& options)>;

/// Reads texts with `model`, which has to live as long, through caches that `make_cache` makes:
/// several tokens in one step when `prefill`, else one by one.
OpenReader through_cache(DecoderImpl& model, MakeCache make_cache, bool prefill);

/// How well the answers of some samples were known.
struct ProbeScore {
  double nll = 0;             ///< nats an answer token
  double exact_match = 0;     ///< share of answers of which every token is the likeliest one
  double token_accuracy = 0;  ///< share of answer tokens that are the likeliest one
};

/// Gives every prompt at once and then the true tokens one by one, whatever the model would have
/// said (teacher forcing): an answer is right when greedy decoding would have given all of it.
/// Samples must be of one length.
ProbeScore score_answers(const std::vector<ProbeSample>& samples,
                         const OpenReader& open,
                         int64_t batch);

/// The result of a task at one length and depth.
struct ProbePoint {
  std::string task;
  int64_t length = 0;    ///< tokens of a sequence
  double depth = 0;      ///< share of the filler before the fact
  int64_t distance = 0;  ///< tokens between the fact and the question
  int64_t samples = 0;
  ProbeScore score = {};
  double nll_without = 0;  ///< of the same answers where filler stands in the place of the fact

  /// What remembering the fact saves, in nats an answer token; tells even of a model that is far
  /// from any right answer.
  double gain() const { return nll_without - score.nll; }
};

/// Every length and depth of `options`. Throws Error 64 as make_sample(), and 80 when a loss is not
/// finite.
std::vector<ProbePoint> run_probe(const ProbeTask& task,
                                  const ProbeText& text,
                                  const ProbeOptions& options,
                                  const OpenReader& open);

/// A list of points with the keys that docs/evaluation.md describes.
nlohmann::ordered_json probe_json(const std::vector<ProbePoint>& points);

}  // namespace kvsmith
