#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "evaluate/probe_text.h"

namespace kvsmith {

/// Places [first, first + count) of a sequence.
struct TokenSpan {
  int64_t first = 0, count = 0;

  int64_t end() const { return first + count; }
};

/// A generated sequence that ends in a question: what it is asked for stands in its earlier part.
///
///     begin-of-text ‖ filler ‖ body with the fact ‖ filler ‖ question with its answers
struct ProbeSample {
  std::vector<int64_t> tokens;
  std::vector<int64_t> control;    ///< the same with filler in the place of the fact
  std::vector<TokenSpan> answers;  ///< what is scored, ascending; one or several tokens each
  int64_t distance = 0;            ///< tokens between the fact and the question

  /// Where the tokens begin that a model is given one by one.
  int64_t answer_from() const { return answers.front().first; }
};

struct ProbeOptions {
  std::vector<int64_t> lengths = {};  ///< tokens of a sequence; empty: the context of an evaluation
  std::vector<double> depths = {0, 0.25, 0.5, 0.75, 1};  ///< share of the filler before the fact
  int64_t samples = 32;                                  ///< for each length and depth
  int64_t key_tokens = 4;  ///< of a passkey, and of each key and value of kv_retrieval
  int64_t pairs = 8;       ///< of mqar
  int64_t segment = 16;    ///< tokens that copy repeats
  /// Whether a prompt is read in one step, as in serving. Else token by token, which a cache method
  /// that only acts on what is decoded needs in order to act at all.
  bool prefill = true;
  int64_t batch = 16;  ///< sequences read side by side
  uint64_t seed = 0;
};

/// The parts of a sequence that a task decides on.
struct ProbeParts {
  std::vector<int64_t> body;       ///< what stands among the filler
  TokenSpan fact;                  ///< the part of `body` that the answers follow from
  std::vector<int64_t> question;   ///< with its answers
  std::vector<TokenSpan> answers;  ///< parts of `question`
};

/// What a task makes them from.
struct ProbeDraft {
  const ProbeText& text;
  const ProbeOptions& options;
  int64_t room;  ///< tokens for body, question and filler together
  double depth;
  Draws& draws;
};

/// A kind of probe. A new one is a function and a line in the table of probe_tasks().
struct ProbeTask {
  std::string_view name, help;
  ProbeParts (*parts)(ProbeDraft draft);
};

std::span<const ProbeTask> probe_tasks();
/// Throws Error (64) naming the tasks there are.
const ProbeTask& probe_task(const std::string& name);

/// Sample `index` of a task: a pure function of its arguments. At another length or depth a sample
/// keeps its symbols and its filler. No token of body or question occurs in the filler, so that
/// only the fact can tell the answer. Throws Error (64) when `length` is too short or there are too
/// few different tokens.
ProbeSample make_sample(const ProbeTask& task,
                        const ProbeText& text,
                        const ProbeOptions& options,
                        int64_t length,
                        double depth,
                        uint64_t index);

}  // namespace kvsmith
