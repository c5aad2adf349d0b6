#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "inference/sampler.h"

namespace kvsmith {

/// One text to continue.
struct TextRequest {
  size_t model = 0;  ///< of the engine: 0 its base, others its adapters in order, from 1
  std::vector<int32_t> prompt;
  int64_t max_tokens = 16;       ///< 0 only with scores_prompt
  bool takes_what_fits = false;  ///< fewer where the cache budget can never hold so many
  SamplingOptions sampling;
  int64_t sequence = 0;  ///< of several texts under one seed, as in sample()
  std::vector<std::string> stop;
  std::vector<int32_t> end_tokens;  ///< beside those of the model
  int64_t alternatives = -1;        ///< likeliest tokens told beside each; -1: no probabilities
  std::string client;               ///< whose turn it takes while it waits
  bool scores_prompt = false;       ///< tells the probabilities of the prompt's tokens too
};

/// A token and the natural logarithm of its probability under the model itself, whatever the
/// sampling.
struct ScoredToken {
  int32_t id = 0;
  std::optional<double> logprob;                ///< none of a text's first token, or not asked for
  std::vector<std::pair<int32_t, double>> top;  ///< the likeliest, best first
};

enum class Finish {
  kNone,       ///< it goes on
  kStop,       ///< a stop text, or a token that ends texts
  kLength,     ///< max_tokens
  kCancelled,  ///< whoever asked has left
  kRefused,    ///< it cannot be done, now or ever
  kFailed,     ///< something broke on the way
};

/// Why a request was refused or failed.
struct Failure {
  int status = 500;  ///< of HTTP
  std::string message;
  std::string code;  ///< for programs: "context_length_exceeded"
};

}  // namespace kvsmith
