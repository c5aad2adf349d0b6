#include <algorithm>
#include <functional>
#include <iterator>
#include <ranges>
#include <utility>

#include "core/error.h"
#include "core/files.h"
#include "core/text.h"
#include "report/chart_scale.h"
#include "report/measurement.h"
#include "report/method_columns.h"
#include "report/report.h"

namespace kvsmith {
namespace {

using Json = nlohmann::ordered_json;
using Cells = std::vector<std::string>;

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

/// Every key of the evaluations.
std::string runs_csv(const std::vector<ReportRun>& runs) {
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

/// The columns of methods: the evaluations themselves have hundreds of keys, for each bin and
/// probe.
std::string methods_csv(const MethodFindings& findings) {
  const auto columns = method_columns(findings);
  std::string out;
  for (size_t i = 0; i < columns.size(); ++i) out += cat(i > 0 ? "," : "", columns[i].key);
  out += "\r\n";
  for (const size_t at : table_order(findings)) {
    for (size_t i = 0; i < columns.size(); ++i)
      out += cat(i > 0 ? "," : "", csv_cell(columns[i].value(findings.points[at])));
    out += "\r\n";
  }
  return out;
}

/// What a report adds to an evaluation.
void add_method_keys(const MethodPoint& point, Json& run) {
  run["pareto"] = point.pareto ? Json(*point.pareto) : Json();
  run["mean_bytes"] = point.mean_bytes ? Json(*point.mean_bytes) : Json();
  run["share_of_full"] = point.share_of_full ? Json(*point.share_of_full) : Json();
  for (const auto& [task, mean] : point.probes) run["probe_accuracy"][task] = mean.accuracy;
}

/// Lines of equally many cells, the first being headings, as columns of equal width.
std::string aligned(std::vector<Cells> lines, const std::vector<bool>& is_text) {
  std::vector<size_t> widths(is_text.size());
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
      text += cat(i > 0 ? "  " : "", is_text[i] ? line[i] + space : space + line[i]);
    }
    out += text + "\n";
  }
  return out;
}

std::string runs_table(const std::vector<ReportRun>& runs) {
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
  std::vector<bool> is_text(lines[0].size());
  is_text[0] = is_text[1] = true;
  std::string out = aligned(lines, is_text);
  out += cat("\n* on the Pareto front. ", printable(findings.conditions), "\n");
  for (const auto& note : findings.notes) out += printable(note) + "\n";
  return out + printable(findings.summary) + "\n";
}

std::string methods_table(const MethodFindings& findings) {
  std::vector<MethodColumn> columns;
  for (auto& column : method_columns(findings))
    if (!column.brief.empty()) columns.push_back(std::move(column));
  std::vector<Cells> lines(1);
  std::vector<bool> is_text;
  for (const auto& column : columns) {
    lines[0].push_back(column.brief);
    is_text.push_back(column.unit == MethodColumn::Unit::kText);
  }
  for (const size_t at : table_order(findings)) {
    const MethodPoint& point = findings.points[at];
    lines.emplace_back();
    for (const auto& column : columns) {
      lines.back().push_back(column.text(point, "-"));
      if (column.key == "perplexity") lines.back().back() += point.pareto == true ? " *" : "  ";
    }
  }
  std::string out = aligned(lines, is_text) + "\n* on the Pareto front of its context.\n";
  for (const auto& panel : findings.panels)
    out += cat(printable(panel.conditions), "\n  ", printable(panel.finding), "\n");
  for (const auto& note : findings.notes) out += printable(note) + "\n";
  return out;
}

}  // namespace

std::string report_csv(const std::vector<ReportRun>& runs) {
  return std::ranges::any_of(runs, has_method) ? methods_csv(judge_methods(runs)) : runs_csv(runs);
}

std::string report_json(const std::vector<ReportRun>& runs, const std::string& title) {
  constexpr size_t kMostPoints = 500;
  const bool of_methods = std::ranges::any_of(runs, has_method);
  const Findings findings = of_methods ? Findings{} : judge_runs(runs);
  const MethodFindings methods = of_methods ? judge_methods(runs) : MethodFindings{};
  Json report = {{"title", valid_utf8(title)},
                 {"generated_by", "kvsmith " KVSMITH_VERSION},
                 {"runs", Json::array()}};
  for (size_t i = 0; i < runs.size(); ++i) {
    Json run = runs[i].evaluation;
    if (of_methods) {
      add_method_keys(methods.points[i], run);
    } else {
      run["pareto"] = findings.rows[i].pareto;
    }
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
  std::vector<ReportRun> plain;
  std::ranges::copy_if(runs, std::back_inserter(plain), std::not_fn(has_method));
  std::string out;
  if (plain.size() < runs.size()) out = methods_table(judge_methods(runs));
  // judge_runs() says what is wrong with no runs at all
  if (!plain.empty() || runs.empty()) out += cat(out.empty() ? "" : "\n", runs_table(plain));
  return out;
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
