#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "configs/run_config.h"
#include "data/batches.h"
#include "models/decoder.h"

namespace kvsmith {

/// Sums over the targets of log softmax(logits)[target] of each sequence of a batch of pairs, in
/// fp32: [pairs, 2]. Logits exist for targets only, a few thousand at a time.
at::Tensor answer_log_probabilities(DecoderImpl& model, const Batch& batch);

/// The frozen model that preferences are measured against: preference.reference, or the one that
/// the run begins with. Of an adapted model that is the model itself without its adapter, and costs
/// no memory; any other is loaded when it is first asked.
///
/// It is asked about one pair at a time, so that what it says of a pair depends on nothing else.
class Reference {
 public:
  /// `policy`: the model that learns; `base`: the fingerprint of what is adapted, empty where
  /// nothing is; `tokenizer_sha256` of the corpus. Throws Error (65, 66) where the reference cannot
  /// be read.
  Reference(const RunConfig& config,
            Decoder policy,
            const std::string& base,
            std::string tokenizer_sha256);

  /// What it is, for the log.
  std::string name() const { return is_base() ? "the model without its adapter" : path_; }
  /// Hash of its weights; empty where it is the base of the policy.
  const std::string& fingerprint() const { return fingerprint_; }

  /// Answers for all pairs of these sources from preference.cache, where those that are not there
  /// yet are asked for and kept, 1,024 pairs a file; then gives the model's memory back. A file is
  /// named by what it answers and read only when whole. Throws Error: 65 for a damaged file, 73, 74
  /// and 77 when one cannot be written; as log_probabilities().
  void prepare(const std::vector<std::unique_ptr<const BatchSource>>& sources,
               const std::function<void(const std::string&)>& note);

  /// answer_log_probabilities() of the reference, without gradient, on the device of the policy.
  /// Throws Error (78) for a reference with another vocabulary.
  at::Tensor log_probabilities(const Batch& batch);

 private:
  using Key = std::array<uint64_t, 2>;      ///< hash of a pair
  using PairScores = std::array<float, 2>;  ///< of the chosen, of the rejected

  bool is_base() const { return path_.empty(); }
  PairScores ask(const Batch& pair);
  Decoder load() const;

  static Key key_of(const Batch& pair);

  RunConfig config_;
  Decoder policy_, model_{nullptr};
  std::string path_;  ///< empty: the base of the policy
  std::string fingerprint_, folder_, tokenizer_sha256_;
  std::map<Key, PairScores> known_;
};

}  // namespace kvsmith
