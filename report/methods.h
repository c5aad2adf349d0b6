#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "report/report.h"

namespace kvsmith {

/// What `evaluate --cache` measured of a method. Byte counts are of one sequence.
struct MethodFigures {
  double max_bytes = 0, peak_bytes = 0, read_bytes_per_token = 0;
  double payload = 0, codec_metadata = 0, index = 0, policy_state = 0;  ///< at the end of a window
  double perplexity_full = 0, perplexity_low = 0, perplexity_high = 0;
  double kl_to_full = 0, top1_agreement = 0;
};

/// What a probe found, mean over its lengths and depths.
struct ProbeMean {
  double accuracy = 0;  ///< share of answer tokens that are the likeliest ones
  std::string grid;     ///< lengths, depths and samples; means of unequal grids are not compared
};

/// An evaluation among those of cache methods.
struct MethodPoint {
  std::string checkpoint;  ///< its name, like no other checkpoint's
  std::string architecture, dtype;
  std::string method;  ///< "h2o 256, q8_0/q4_0", told apart from others of that name
  std::string retention = "full", codec_k = "model", codec_v = "model";
  std::string corpus, split, protocol;
  double context = 0, tokens = 0, perplexity = 0;
  std::optional<double> stride = {}, budget_tokens = {}, seed = {};
  /// Mean after a step. Of a run evaluated without a method, computed from the lengths at which its
  /// cache was measured; none where that would not be the mean of the same steps.
  std::optional<double> mean_bytes = {};
  bool keeps_all = false;     ///< every row, as computed
  bool repeats_full = false;  ///< without a method, and also there with one that keeps all
  std::optional<double> share_of_full = {};  ///< of mean_bytes of the same checkpoint with all kept
  std::optional<MethodFigures> figures = {};     ///< none: evaluated without a method
  std::map<std::string, ProbeMean> probes = {};  ///< by task
  std::optional<bool> pareto = {};               ///< on the front of its panel; none: in no panel
};

/// Points measured alike, which alone are compared.
struct MethodPanel {
  std::string title;       ///< "Context 512"
  std::string conditions;  ///< one sentence
  std::string finding;     ///< one sentence
  std::vector<size_t> points;
};

struct MethodFindings {
  std::vector<MethodPoint> points;  ///< one for each run, in their order
  std::vector<MethodPanel> panels;  ///< by context
  std::vector<std::string> tasks;   ///< probes of any point
  std::vector<std::string> notes;
  std::string summary;
};

/// Whether `run` was evaluated with --cache.
bool has_method(const ReportRun& run);
/// At least one run must have a method.
MethodFindings judge_methods(const std::vector<ReportRun>& runs);

/// "gqa: h2o 256, q8_0/q4_0".
std::string full_name(const MethodPoint& point);

/// Mean bytes of the cache after each of the tokens 1 to context, from the lengths at which it was
/// measured, between which caches grow in straight lines; none where steps were not of one token
/// or most windows were shorter than the context.
std::optional<double> mean_bytes_of_windows(const nlohmann::ordered_json& evaluation);

}  // namespace kvsmith
