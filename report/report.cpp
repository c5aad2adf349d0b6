#include "report/report.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/text.h"
#include "report/chart_scale.h"
#include "report/measurement.h"

namespace kvsmith {
namespace {

using Json = nlohmann::ordered_json;

ReportRow row_of(const Json& evaluation) {
  const auto number = [&](const char* key) { return evaluation.at(key).get<double>(); };
  const auto cache = [&](const char* key) { return evaluation.at("cache").at(key).get<double>(); };
  ReportRow row = {.label = {},
                   .name = evaluation.at("name").get<std::string>(),
                   .architecture = evaluation.at("architecture").get<std::string>(),
                   .protocol = evaluation.at("protocol").get<std::string>(),
                   .parameters = number("parameters"),
                   .tokens_seen = number("tokens_seen"),
                   .context = number("context"),
                   .perplexity = number("perplexity"),
                   .bytes_per_token = cache("bytes_per_token"),
                   .bytes_measured = cache("bytes_measured"),
                   .bytes_formula = cache("bytes_formula"),
                   .bytes_at = {},
                   .stride = optional_number(evaluation, "stride"),
                   .bits_per_byte = optional_number(evaluation, "bits_per_byte"),
                   .unigram_perplexity = optional_number(evaluation, "unigram_perplexity")};
  row.bytes_at[kLongContext] = cache("bytes_at_8k");
  for (const Json& at : evaluation.at("cache").value("lengths", Json::array()))
    row.bytes_at[at.at("tokens").get<int64_t>()] = at.at("bytes_measured").get<double>();
  return row;
}

/// The architecture says most, where it tells the runs apart; else the name, numbered if need be.
void label_rows(std::vector<ReportRow>& rows) {
  std::set<std::string> architectures;
  for (const auto& row : rows) architectures.insert(row.architecture);
  const bool telling = architectures.size() == rows.size();
  std::set<std::string> used;
  for (auto& row : rows) {
    const std::string& wanted = telling || row.name.empty() ? row.architecture : row.name;
    row.label = wanted;
    for (int i = 2; !used.insert(row.label).second; ++i) row.label = cat(wanted, " (", i, ")");
  }
}

Standing standing(const ReportRow& row) { return {row.bytes_per_token, row.perplexity}; }

std::string factor(double ratio) { return fixed(ratio, ratio < 100 ? 1 : 0) + "x"; }

std::string summarize(const std::vector<ReportRow>& rows, bool comparable) {
  if (rows.size() == 1) {
    return cat(rows[0].label, " holds ", compact_bytes(rows[0].bytes_per_token),
               " a token at perplexity ", fixed(rows[0].perplexity, 2), ".");
  }
  if (!comparable) {
    return cat("The ", rows.size(),
               " runs were not measured alike: their perplexities cannot be compared.");
  }
  const auto smaller = [](const ReportRow& a, const ReportRow& b) {
    return std::pair(a.bytes_per_token, a.perplexity) < std::pair(b.bytes_per_token, b.perplexity);
  };
  const ReportRow& small = *std::ranges::min_element(rows, smaller);
  const double most = std::ranges::max(rows, {}, &ReportRow::bytes_per_token).bytes_per_token;
  if (most == small.bytes_per_token) {
    const auto [best, worst] = std::ranges::minmax(rows, {}, &ReportRow::perplexity);
    if (best.perplexity == worst.perplexity) {
      return cat("All ", rows.size(), " runs hold ", compact_bytes(most), " a token at perplexity ",
                 fixed(best.perplexity, 2), ".");
    }
    return cat("All ", rows.size(), " runs hold ", compact_bytes(most), " a token; ", best.label,
               " has the lowest perplexity, ", fixed(best.perplexity, 2), ".");
  }
  // Of several with the largest cache, the best is the fair one to compare with.
  const auto larger = [](const ReportRow& a, const ReportRow& b) {
    return std::pair(a.bytes_per_token, -a.perplexity) <
           std::pair(b.bytes_per_token, -b.perplexity);
  };
  const ReportRow& large = *std::ranges::max_element(rows, larger);
  const double change = 100 * (small.perplexity / large.perplexity - 1);
  return cat(small.label, " holds ", compact_bytes(small.bytes_per_token), " a token, ",
             small.bytes_per_token > 0
                 ? factor(large.bytes_per_token / small.bytes_per_token) + " less than "
                 : compact_bytes(large.bytes_per_token) + " less than ",
             large.label, ", at ",
             !std::isfinite(change) || change >= 900
                 ? cat("perplexity ", fixed(small.perplexity, 2), " instead of ",
                       fixed(large.perplexity, 2))
             : std::abs(change) < 0.05
                 ? "equal perplexity"
                 : cat(change > 0 ? "+" : "-", fixed(std::abs(change), 1), " % perplexity"),
             ".");
}

void note_training(Findings& findings) {
  const auto [least_tokens, most_tokens] =
      std::ranges::minmax(findings.rows, {}, &ReportRow::tokens_seen);
  if (most_tokens.tokens_seen > 1.01 * least_tokens.tokens_seen) {
    findings.notes.push_back(cat(
        "Trained on unequal amounts of text, ", compact_count(least_tokens.tokens_seen), " to ",
        compact_count(most_tokens.tokens_seen), " tokens: part of a difference may be training."));
  }
  const auto [smallest, biggest] = std::ranges::minmax(findings.rows, {}, &ReportRow::parameters);
  if (biggest.parameters > 1.05 * smallest.parameters) {
    findings.notes.push_back(cat("Models of unequal size, ", compact_count(smallest.parameters),
                                 " to ", compact_count(biggest.parameters),
                                 " parameters: part of a difference may be size."));
  }
  for (const auto& row : findings.rows) {
    if (row.bytes_measured == row.bytes_formula) continue;
    findings.notes.push_back(cat("The cache of ", row.label, " measured ",
                                 compact_bytes(row.bytes_measured), " where its formula says ",
                                 compact_bytes(row.bytes_formula), "."));
  }
}

}  // namespace

Findings judge_runs(const std::vector<ReportRun>& runs) {
  if (runs.empty()) {
    throw Error(ExitCode::kUsage, {.what = "no runs to report on",
                                   .where = {},
                                   .remedy = "name run directories or evaluation JSON files"});
  }
  Findings findings;
  std::vector<Measurement> measurements;
  for (const auto& run : runs) {
    findings.rows.push_back(row_of(run.evaluation));
    measurements.push_back(measurement_of(run.evaluation));
  }
  auto& rows = findings.rows;
  label_rows(rows);

  const Measurement usual = *std::ranges::max_element(
      measurements, {}, [&](const Measurement& m) { return std::ranges::count(measurements, m); });
  findings.conditions = conditions_of(usual);
  for (size_t i = 0; i < rows.size(); ++i) {
    std::vector<std::string> differences;
    for (const auto& [key, value] : measurements[i]) {
      if (value != usual.at(key))
        differences.push_back(cat(key, " ", value, " instead of ", usual.at(key)));
    }
    rows[i].measured_alike = differences.empty();
    if (!differences.empty()) {
      findings.comparable = false;
      findings.notes.push_back(
          cat("Not comparable: ", rows[i].label, " has ", join(differences), "."));
    }
    for (size_t j = 0; j < rows.size(); ++j) {
      if (measurements[i] == measurements[j] && standing(rows[j]).dominates(standing(rows[i])))
        rows[i].pareto = false;
    }
  }
  note_training(findings);
  findings.summary = summarize(rows, findings.comparable);
  return findings;
}

std::vector<int64_t> common_lengths(const std::vector<ReportRow>& rows) {
  std::vector<int64_t> out;
  for (const auto& [tokens, bytes] : rows[0].bytes_at) {
    const bool everywhere = std::ranges::all_of(rows, [&, length = tokens](const ReportRow& row) {
      return row.bytes_at.contains(length) && row.context <= static_cast<double>(length);
    });
    if (everywhere) out.push_back(tokens);
  }
  return out;
}

std::string short_length(int64_t tokens) {
  return tokens % 1024 == 0 ? cat(tokens / 1024, "k") : std::to_string(tokens);
}

std::vector<LossPoint> thin_curve(const std::vector<LossPoint>& curve, size_t most) {
  if (curve.size() <= most) return curve;
  std::vector<LossPoint> thin;
  for (size_t i = 0; i < most; ++i) {
    const size_t first = i * curve.size() / most, last = (i + 1) * curve.size() / most - 1;
    size_t kept = last;
    while (kept > first && !curve[kept].validation_loss) --kept;
    thin.push_back(curve[kept].validation_loss ? curve[kept] : curve[last]);
  }
  return thin;
}

}  // namespace kvsmith
