#include "report/report.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/files.h"
#include "core/text.h"
#include "report/chart_scale.h"

namespace kvsmith {
namespace {

using Json = nlohmann::ordered_json;

/// What must be equal for perplexities to be compared.
using Measurement = std::map<std::string, std::string>;

std::string as_text(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

Measurement measurement_of(const Json& evaluation) {
  Measurement out;
  for (const char* key : {"corpus", "split", "tokens", "context", "stride", "protocol"}) {
    out[key] = as_text(evaluation.value(key, Json()));
  }
  // One corpus may be named from several places; another text gives another number of tokens.
  out["corpus"] = std::filesystem::path(out["corpus"]).filename().string();
  return out;
}

std::optional<double> optional_number(const Json& evaluation, const char* key) {
  const Json value = evaluation.value(key, Json());
  return value.is_number() ? std::optional(value.get<double>()) : std::nullopt;
}

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

std::string csv_cell(const Json& value) {
  if (value.is_null()) return {};
  std::string text = as_text(value);
  if (text.find_first_of("\",\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

/// `text` with everything that is not UTF-8 replaced, so that it may go into any format.
std::string valid_utf8(const std::string& text) {
  return Json::parse(Json(text).dump(-1, ' ', false, Json::error_handler_t::replace));
}

size_t characters(const std::string& utf8) {
  return static_cast<size_t>(std::ranges::count_if(
      utf8, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
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
  findings.conditions =
      cat("Measured on ", usual.at("corpus"), " (", usual.at("split"), ", ", usual.at("tokens"),
          " tokens), protocol ", usual.at("protocol"), ", context ", usual.at("context"),
          ", stride ", usual.at("stride") == "null" ? "none" : usual.at("stride"), ".");
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

std::string report_csv(const std::vector<ReportRun>& runs) {
  const Findings findings = judge_runs(runs);
  std::vector<std::string> keys;
  std::vector<Json> flat;
  for (const auto& run : runs) {
    flat.push_back(run.evaluation.flatten());
    for (const auto& [key, value] : flat.back().items()) {
      if (std::ranges::find(keys, key) == keys.end()) keys.push_back(key);
    }
  }
  std::string out;
  for (const auto& key : keys) {
    std::string name = key.substr(1);
    std::ranges::replace(name, '/', '.');
    out += csv_cell(name) + ",";
  }
  out += "pareto\r\n";
  for (size_t i = 0; i < runs.size(); ++i) {
    for (const auto& key : keys) out += csv_cell(flat[i].value(key, Json())) + ",";
    out += findings.rows[i].pareto ? "true\r\n" : "false\r\n";
  }
  return out;
}

std::string report_json(const std::vector<ReportRun>& runs, const std::string& title) {
  constexpr size_t kMostPoints = 500;
  const Findings findings = judge_runs(runs);
  Json report = {{"title", valid_utf8(title)},
                 {"generated_by", "kvsmith " KVSMITH_VERSION},
                 {"runs", Json::array()}};
  for (size_t i = 0; i < runs.size(); ++i) {
    Json run = runs[i].evaluation;
    run["pareto"] = findings.rows[i].pareto;
    run["curve"] = Json::array();
    for (const auto& point : thin_curve(runs[i].curve, kMostPoints)) {
      Json entry = {{"step", point.step}, {"tokens", point.tokens}, {"loss", point.loss}};
      if (point.validation_loss) entry["validation_loss"] = *point.validation_loss;
      run["curve"].push_back(std::move(entry));
    }
    report["runs"].push_back(std::move(run));
  }
  return report.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string report_table(const std::vector<ReportRun>& runs) {
  using Cells = std::array<std::string, 11>;
  constexpr size_t kTextColumns = 2;
  Findings findings = judge_runs(runs);
  std::ranges::stable_sort(findings.rows, std::ranges::greater{}, &ReportRow::bytes_per_token);
  std::vector<Cells> lines = {{"run", "architecture", "params", "trained on", "perplexity",
                               "bits/byte", "bytes/token", "at 8k", "formula", "protocol",
                               "context/stride"}};
  for (const auto& row : findings.rows) {
    lines.push_back(
        {row.name, row.architecture, compact_count(row.parameters), compact_count(row.tokens_seen),
         fixed(row.perplexity, 2) + (row.pareto ? " *" : "  "),
         row.bits_per_byte ? fixed(*row.bits_per_byte, 3) : "-", compact_bytes(row.bytes_per_token),
         compact_bytes(row.bytes_at.at(kLongContext)),
         row.bytes_measured == row.bytes_formula ? "equal" : "DIFFERS", row.protocol,
         cat(fixed(row.context, 0), "/", row.stride ? fixed(*row.stride, 0) : "-")});
  }
  std::array<size_t, std::tuple_size_v<Cells>> widths{};
  for (auto& line : lines) {
    for (size_t i = 0; i < line.size(); ++i) {
      line[i] = printable(line[i]);
      std::ranges::replace(line[i], '\n', ' ');
      widths[i] = std::max(widths[i], characters(line[i]));
    }
  }
  std::string out;
  for (const auto& line : lines) {
    std::string text;
    for (size_t i = 0; i < line.size(); ++i) {
      const std::string space(widths[i] - characters(line[i]), ' ');
      text += cat(i > 0 ? "  " : "", i < kTextColumns ? line[i] + space : space + line[i]);
    }
    out += text + "\n";
  }
  out += cat("\n* on the Pareto front. ", printable(findings.conditions), "\n");
  for (const auto& note : findings.notes) out += printable(note) + "\n";
  return out + printable(findings.summary) + "\n";
}

void write_report(const std::vector<ReportRun>& runs,
                  const std::filesystem::path& output,
                  const std::string& title) {
  if (output.extension() != ".html") {
    throw Error(ExitCode::kUsage, {.what = "a report is a .html file",
                                   .where = output.string(),
                                   .remedy = "choose a name that ends in .html"});
  }
  const std::string safe_title = valid_utf8(title);
  const auto beside = [&](const char* extension) {
    return std::filesystem::path(output).replace_extension(extension);
  };
  write_file(beside(".csv"), report_csv(runs));
  write_file(beside(".json"), report_json(runs, safe_title));
  write_file(beside(".svg"), report_svg(runs, safe_title));
  write_file(output, report_html(runs, safe_title));
}

}  // namespace kvsmith
