#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace kvsmith {

/// A line of metrics.jsonl. Losses in nats per token.
struct LossPoint {
  int64_t step;
  int64_t tokens;
  double loss;
  std::optional<double> validation_loss;
};

/// What is known about one run: the object written by `kvsmith evaluate --json`, with every key a
/// report needs, and how the training went, in order of steps; empty when that is not known.
struct ReportRun {
  nlohmann::ordered_json evaluation;
  std::vector<LossPoint> curve;
};

/// Reads what `kvsmith report RUN...` names: evaluation JSON files, run directories, of which every
/// evaluation*.json is a run, and sweep directories with a file a point; in a directory without
/// such names every *.json is an evaluation. metrics.jsonl is read where it lies beside an
/// evaluation; a directory with several evaluations shows its curve once. A last line torn by a
/// crash is left out, and so are the lines of steps that a resumed run did again. A file named
/// twice is read once; `on_repeat` is told of it.
///
/// Errors: 64 no paths; 65 malformed, with file and line or key; 66 missing.
std::vector<ReportRun> read_runs(
    const std::vector<std::filesystem::path>& paths,
    const std::function<void(const std::filesystem::path&)>& on_repeat = {});

/// The longest text whose cache every evaluation measures, in tokens.
inline constexpr int64_t kLongContext = 8192;

/// A run as the report shows it. Byte counts are of the cache.
struct ReportRow {
  std::string label;  ///< short, and like no other of the report
  std::string name, architecture, protocol;
  double parameters = 0, tokens_seen = 0, context = 0;
  double perplexity = 0;
  double bytes_per_token = 0, bytes_measured = 0, bytes_formula = 0;
  std::map<int64_t, double> bytes_at;  ///< measured after so many tokens; kLongContext among them
  std::optional<double> stride, bits_per_byte, unigram_perplexity;
  bool measured_alike = true;  ///< false: corpus, split, tokens, context, stride or protocol differ
  bool pareto = true;          ///< no run measured alike is as small and as good, and better in one
};

/// What a report says.
struct Findings {
  std::string summary;             ///< one sentence
  std::string conditions;          ///< how most runs were measured, one sentence
  std::vector<std::string> notes;  ///< what makes the runs less comparable than they look
  bool comparable = true;          ///< all runs were measured alike
  std::vector<ReportRow> rows;     ///< in the order of the runs
};

/// Judges runs by bytes per token of their own caches. Throws Error 64 when there are no runs.
Findings judge_runs(const std::vector<ReportRun>& runs);

/// Where a run stands on the memory-perplexity plane.
struct Standing {
  double bytes = 0, perplexity = 0;

  /// As small and as good, and better in one of the two.
  bool dominates(const Standing& other) const {
    return bytes <= other.bytes && perplexity <= other.perplexity &&
           (bytes < other.bytes || perplexity < other.perplexity);
  }
};

/// Lengths of text, in tokens, from the context on, after which the cache of every run was
/// measured.
std::vector<int64_t> common_lengths(const std::vector<ReportRow>& rows);
/// "2k" of 2048.
std::string short_length(int64_t tokens);

/// One page that needs nothing else: no network, and no scripts, but for filters and sorting where
/// there are cache methods.
std::string report_html(const std::vector<ReportRun>& runs, const std::string& title);
/// The memory-perplexity plane alone, for a README; of cache methods one plane for each context.
std::string report_svg(const std::vector<ReportRun>& runs, const std::string& title);
/// A row per run with the keys of its evaluation, nested ones as "cache.dtype" (RFC 4180); of cache
/// methods with the columns of method_columns().
std::string report_csv(const std::vector<ReportRun>& runs);
/// {"title", "generated_by", "runs": [the evaluation, "pareto", "curve" of at most 500 points]};
/// with cache methods also "mean_bytes", "share_of_full" and "probe_accuracy" by task.
std::string report_json(const std::vector<ReportRun>& runs, const std::string& title);
/// Aligned text for a terminal.
std::string report_table(const std::vector<ReportRun>& runs);

/// Writes the page to `output`, which ends in .html, and beside it the same stem with .csv, .json
/// and .svg. Errors: 64 for another ending, and those of write_file.
void write_report(const std::vector<ReportRun>& runs,
                  const std::filesystem::path& output,
                  const std::string& title);

/// At most `most` points of a curve, evenly spread; of each stretch its last point, or its last
/// with a validation loss.
std::vector<LossPoint> thin_curve(const std::vector<LossPoint>& curve, size_t most);

}  // namespace kvsmith
