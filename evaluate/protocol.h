#pragma once

#include <string>

namespace kvsmith {

/// How texts are scored; docs/evaluation.md.
enum class Protocol {
  kDecode,           ///< token by token through the cache, from empty
  kPrefillContinue,  ///< some tokens in one step, the rest token by token; only these are scored
  kChunked,          ///< several tokens a step
  kReplay,           ///< one pass in which each token sees what decoding had kept for it
  kParallel,         ///< the whole window in one pass, as in training
};
Protocol protocol_of(const std::string& name);  ///< Throws Error (64).
std::string to_string(Protocol protocol);

}  // namespace kvsmith
