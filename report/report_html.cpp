#include <algorithm>
#include <cmath>
#include <string_view>

#include "core/text.h"
#include "report/chart_scale.h"
#include "report/report.h"
#include "report/svg.h"

namespace kvsmith {
namespace {

constexpr ChartSize kWide{900, 440}, kNarrow{340, 380};
constexpr const char* kPerToken = "KV cache per token";

constexpr std::string_view kPageCss = R"css(
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0 auto;padding:3rem 1.5rem 2rem;max-width:64rem;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1,.summary,p,li{overflow-wrap:anywhere}
h1{font-size:1.05rem;font-weight:500;color:var(--muted);margin:0 0 .4rem}
.summary{font-size:1.6rem;line-height:1.3;font-weight:600;letter-spacing:-.012em;margin:0 0 2.5rem;
max-width:44rem;text-wrap:balance}
h2{font-size:1.05rem;font-weight:600;margin:3rem 0 .25rem}
p{margin:.25rem 0;max-width:44rem}
.caption,.notes,footer{color:var(--muted);font-size:.875rem}
.notes{margin:.5rem 0;padding:0;list-style:none;max-width:48rem}
.notes li{margin:.2rem 0}
.notes .flag{color:var(--ink)}
figure{margin:1.25rem 0 0}
.chart{display:block;width:100%;height:auto}
.narrow{display:none}
.multiples{display:grid;grid-template-columns:repeat(auto-fit,minmax(20rem,1fr));gap:1.5rem}
table{width:100%;border-collapse:collapse;margin:1rem 0 .75rem;font-size:.875rem;
font-variant-numeric:tabular-nums}
th{font-weight:500;color:var(--muted);font-size:.8125rem;line-height:1.25;vertical-align:bottom}
th,td{padding:.45rem 0 .45rem .875rem;text-align:right;border-bottom:1px solid var(--hair)}
td{white-space:nowrap}
th.text,td.text{text-align:left}
td.run,td.architecture{white-space:normal;overflow-wrap:anywhere;min-width:7rem}
th:first-child,td:first-child{padding-left:0}
td.run svg{vertical-align:-.1em;margin-right:.5rem}
td.run{font-weight:600}
td.best{font-weight:700}
.baseline td{color:var(--muted);border-bottom:0;white-space:normal}
.differs{font-weight:700}
footer{margin-top:3.5rem;padding-top:1rem;border-top:1px solid var(--hair)}
a{color:inherit;text-underline-offset:.15em}
@media screen and (max-width:44rem){
body{padding:1.75rem 1rem 1.5rem}
.summary{font-size:1.3rem;margin-bottom:1.75rem}
.wide{display:none}
.narrow{display:block}
}
@media screen and (max-width:60rem){
table,tbody,tr{display:block}
thead{display:none}
tr{display:grid;grid-template-columns:repeat(3,1fr);gap:.5rem .75rem;padding:1rem 0;
border-bottom:1px solid var(--hair)}
td,td.text{display:block;padding:0;border:0;text-align:left;min-width:0;overflow-wrap:anywhere}
td::before{content:attr(data-label);display:block;color:var(--muted);font-size:.75rem;font-weight:400}
td.run,.baseline td{grid-column:1/-1}
td.architecture,td.window{grid-column:span 2}
td.run{font-size:1rem}
td.run::before,.baseline td::before{content:none}
.baseline td:empty{display:none}
}
@media print{
@page{margin:14mm}
body{padding:0;max-width:none;font-size:10pt}
.summary{font-size:15pt;margin-bottom:1.25rem}
h2{margin-top:1.5rem}
h2,.caption{break-after:avoid}
table{font-size:7.5pt}
th{font-size:7pt}
th,td{padding-left:.6rem}
figure,tr,.reading{break-inside:avoid}
.files{display:none}
}
)css";

/// 131072 as "131,072".
std::string grouped(double value) {
  std::string digits = fixed(value, value == std::floor(value) ? 0 : 2);
  const size_t point = std::min(digits.find('.'), digits.size());
  for (size_t i = point; i > 3; i -= 3) digits.insert(i - 3, ",");
  return digits;
}

struct Cell {
  std::string label;  ///< of the column; stands before the value where a table is too wide
  std::string markup;
  std::string hover = {};  ///< plain text
  std::string css = {};
};

std::string cell_markup(const Cell& cell) {
  return cat("<td", cell.css.empty() ? "" : cat(" class=\"", cell.css, "\""), " data-label=\"",
             escape_markup(cell.label), "\"",
             cell.hover.empty() ? "" : cat(" title=\"", escape_markup(cell.hover), "\""), ">",
             cell.markup, "</td>");
}

std::vector<Cell> cells_of(const ReportRow& row,
                           size_t run,
                           const ReportRow& best,
                           const std::vector<int64_t>& lengths) {
  const auto bytes = [](double value) { return grouped(value) + " B"; };
  const bool exact = row.bytes_measured == row.bytes_formula;
  const std::string checked =
      cat("measured ", bytes(row.bytes_measured), ", by formula ", bytes(row.bytes_formula));
  std::vector<Cell> cells = {
      {"Run",
       mark_svg(run, row.pareto) + escape_markup(row.name) + (row.measured_alike ? "" : " †"),
       row.pareto ? "on the Pareto front" : "another run is as small and as good", "text run"},
      {"Architecture", escape_markup(row.architecture), {}, "text architecture"},
      {"Parameters", compact_count(row.parameters), grouped(row.parameters)},
      {"Trained on", compact_count(row.tokens_seen), grouped(row.tokens_seen) + " tokens"},
      {"Perplexity", fixed(row.perplexity, 2), cat(row.perplexity),
       row.perplexity == best.perplexity ? "best" : ""},
      {"Bits per byte", row.bits_per_byte ? fixed(*row.bits_per_byte, 3) : "–"},
      {"Cache per token", compact_bytes(row.bytes_per_token), bytes(row.bytes_per_token),
       row.bytes_per_token == best.bytes_per_token ? "best" : ""},
  };
  for (const int64_t tokens : lengths) {
    const double held = row.bytes_at.at(tokens);
    cells.push_back({"Cache at " + short_length(tokens), compact_bytes(held), bytes(held)});
  }
  const std::vector<Cell> rest = {
      {"Formula agrees", exact ? "✓" : "<span class=\"differs\">✗ differs</span>", checked},
      {"Protocol", escape_markup(row.protocol), {}, "text"},
      {"Context / stride",
       cat(fixed(row.context, 0), " / ", row.stride ? fixed(*row.stride, 0) : "–"),
       {},
       "window"},
  };
  cells.insert(cells.end(), rest.begin(), rest.end());
  return cells;
}

/// "512.34", or a range when the runs were scored on different texts; empty when nobody knows.
std::string unigram_baseline(const std::vector<ReportRow>& rows) {
  std::vector<double> known;
  for (const auto& row : rows) {
    if (row.unigram_perplexity) known.push_back(*row.unigram_perplexity);
  }
  if (known.empty()) return {};
  const auto [low, high] = std::ranges::minmax(known);
  const std::string from = fixed(low, 2), to = fixed(high, 2);
  return from == to ? from : from + " – " + to;
}

/// Large caches first, so that reading down is reading along the front.
std::string table(const std::vector<ReportRow>& rows) {
  ReportRow best = rows[0];
  std::vector<size_t> order;
  for (size_t i = 0; i < rows.size(); ++i) {
    best.perplexity = std::min(best.perplexity, rows[i].perplexity);
    best.bytes_per_token = std::min(best.bytes_per_token, rows[i].bytes_per_token);
    order.push_back(i);
  }
  std::ranges::stable_sort(order, std::ranges::greater{},
                           [&](size_t i) { return rows[i].bytes_per_token; });
  const auto lengths = common_lengths(rows);
  std::string head, body;
  size_t columns = 0;
  for (const size_t i : order) {
    body += "<tr>";
    const bool first = head.empty();
    for (const Cell& cell : cells_of(rows[i], i, best, lengths)) {
      if (first) {
        ++columns;
        head += cat("<th scope=\"col\"", cell.css.starts_with("text") ? " class=\"text\"" : "", ">",
                    cell.label, "</th>");
      }
      body += cell_markup(cell);
    }
    body += "</tr>\n";
  }
  const std::string baseline = unigram_baseline(rows);
  if (!baseline.empty()) {
    body += cat("<tr class=\"baseline\"><td class=\"text\" colspan=\"", columns,
                "\">Unigram baseline, which knows only how frequent each token is: perplexity ",
                baseline, "</td></tr>\n");
  }
  return cat("<table><thead><tr>", head, "</tr></thead>\n<tbody>\n", body, "</tbody></table>\n");
}

/// `bytes_of` gives the bytes of a row, `what` says what they are: " per token".
template <class BytesOf>
std::vector<PlanePoint> plane_points(const std::vector<ReportRow>& rows,
                                     const std::string& what,
                                     const BytesOf& bytes_of) {
  std::vector<PlanePoint> points;
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto& row = rows[i];
    points.push_back(
        {.bytes = bytes_of(row),
         .perplexity = row.perplexity,
         .label = row.label,
         .hover = cat(row.name, " (", row.architecture, "): ", compact_bytes(bytes_of(row)), " ",
                      what, ", perplexity ", fixed(row.perplexity, 2)),
         .on_front = row.pareto,
         .run = i});
  }
  return points;
}

std::vector<PlanePoint> points_per_token(const std::vector<ReportRow>& rows) {
  return plane_points(rows, "per token", [](const ReportRow& row) { return row.bytes_per_token; });
}

/// The planes of longer texts, where they are not the first one with other numbers: some caches end
/// growing.
std::string longer_planes(const std::vector<ReportRow>& rows) {
  constexpr ChartSize kHalf{440, 380};
  std::string out;
  for (const int64_t tokens : common_lengths(rows)) {
    const auto length = static_cast<double>(tokens);
    const auto grows = [&](const ReportRow& row) {
      return row.bytes_at.at(tokens) == length * row.bytes_per_token;
    };
    if (std::ranges::all_of(rows, grows)) continue;
    const std::string what = cat("at ", tokens, " tokens");
    auto points =
        plane_points(rows, what, [&](const ReportRow& row) { return row.bytes_at.at(tokens); });
    for (auto& point : points) {
      point.on_front = std::ranges::none_of(points, [&](const PlanePoint& other) {
        return Standing{other.bytes, other.perplexity}.dominates({point.bytes, point.perplexity});
      });
    }
    out += cat("<div>", plane_svg(points, "KV cache " + what, true, kHalf), "</div>\n");
  }
  if (out.empty()) return out;
  return cat(
      "<h2>At longer texts</h2>\n<p class=\"caption\">The same perplexities over the whole cache "
      "of one sequence, measured after so many tokens.</p>\n<figure class=\"multiples\">\n",
      out, "</figure>\n");
}

/// An exponential moving average over about a fiftieth of the curve, without the pull towards the
/// first value that a plain one has.
std::vector<LossCurve::Point> smoothed(const std::vector<LossPoint>& curve) {
  const double decay = 1 - 2 / (std::max(1.0, static_cast<double>(curve.size()) / 50) + 1);
  std::vector<LossCurve::Point> out;
  double sum = 0, weight = 0;
  for (const auto& point : curve) {
    sum = decay * sum + point.loss;
    weight = decay * weight + 1;
    out.push_back({static_cast<double>(point.tokens), sum / weight});
  }
  return out;
}

std::vector<LossCurve> loss_curves(const std::vector<ReportRun>& runs,
                                   const std::vector<ReportRow>& rows) {
  constexpr size_t kMostPoints = 300;
  std::vector<LossCurve> curves;
  for (size_t i = 0; i < runs.size(); ++i) {
    const auto& points = runs[i].curve;
    if (points.empty()) continue;
    LossCurve curve{.label = rows[i].label, .training = {}, .validation = {}, .run = i};
    const auto smooth = smoothed(points);
    const size_t shown = std::min(kMostPoints, smooth.size());
    for (size_t k = 0; k < shown; ++k) {
      curve.training.push_back(smooth[(k + 1) * smooth.size() / shown - 1]);
    }
    for (const auto& point : thin_curve(points, kMostPoints)) {
      if (!point.validation_loss) continue;
      curve.validation.push_back({static_cast<double>(point.tokens), *point.validation_loss});
    }
    curves.push_back(std::move(curve));
  }
  return curves;
}

std::string figure(const std::string& wide, const std::string& narrow) {
  return cat("<figure>\n<div class=\"wide\">", wide, "</div>\n<div class=\"narrow\">", narrow,
             "</div>\n</figure>\n");
}

std::string notes_list(const std::vector<std::string>& notes) {
  if (notes.empty()) return {};
  std::string out = "<ul class=\"notes\">\n";
  for (const auto& note : notes) {
    const bool flag = note.starts_with("Not comparable");
    out += cat("<li", flag ? " class=\"flag\">† " : ">", escape_markup(note), "</li>\n");
  }
  return out + "</ul>\n";
}

std::string data_link(std::string_view text, std::string_view type, std::string_view name) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  std::string url = cat("data:", type, ";charset=utf-8,");
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    url += {'%', kHex[byte >> 4], kHex[byte & 15]};
  }
  return cat("<a download=\"", name, "\" href=\"", url, "\">", name, "</a>");
}

constexpr std::string_view kReading = R"html(<h2>How to read this</h2>
<p>Each mark is a model. Further left, its key/value cache is smaller; further down, it predicts
unseen text better. Filled marks are on the Pareto front: no other run measured alike is at least
as small and as good, and better in one of the two. The stepped line is the lowest perplexity that
a given number of bytes buys.</p>
<p><b>Bytes</b> are counted from the tensors the cache holds after decoding, not taken from a
formula; the check mark says that the formula of the architecture gives the same number.</p>
<p><b>Protocol</b> <i>decode</i> feeds the text one token at a time through the running cache, as
generation does; <i>parallel</i> scores all positions in one causal pass. <b>Context</b> is the most
tokens a prediction may look back on; windows advance by <b>stride</b>, and only what is new in a
window is scored.</p>
<p><b>Perplexity</b> counts per token, so it compares only models with one tokenizer on one text.
<b>Bits per byte</b> counts per byte of that text and compares across tokenizers.</p>
)html";

/// The summary with the two words of labels such as "MHA 8" kept on one line.
std::string headline(const Findings& findings) {
  std::string text = findings.summary;
  for (const auto& row : findings.rows) {
    const std::string& label = row.label;
    const size_t space = label.find(' ');
    if (space == label.npos || label.find(' ', space + 1) != label.npos) continue;
    std::string kept = label;
    kept.replace(space, 1, "\u00A0");
    for (size_t at = 0; (at = text.find(label, at)) != text.npos; at += kept.size())
      text.replace(at, label.size(), kept);
  }
  return text;
}

}  // namespace

std::string report_svg(const std::vector<ReportRun>& runs, const std::string& title) {
  const Findings findings = judge_runs(runs);
  return standalone_plane_svg(points_per_token(findings.rows), kPerToken, findings.comparable,
                              title);
}

std::string report_html(const std::vector<ReportRun>& runs, const std::string& title) {
  const Findings findings = judge_runs(runs);
  const auto points = points_per_token(findings.rows);
  const auto curves = loss_curves(runs, findings.rows);
  const bool front = findings.comparable;

  std::string page =
      cat("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
          "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
          "<meta name=\"color-scheme\" content=\"light dark\">\n"
          "<meta name=\"generator\" content=\"kvsmith " KVSMITH_VERSION "\">\n<title>",
          escape_markup(title), "</title>\n<style>", chart_css(), kPageCss,
          "</style>\n</head>\n<body>\n<h1>", escape_markup(title), "</h1>\n<p class=\"summary\">",
          escape_markup(headline(findings)), "</p>\n");
  page += "<h2>Memory and perplexity</h2>\n";
  page += cat("<p class=\"caption\">", escape_markup(findings.conditions), "</p>\n");
  page += figure(plane_svg(points, kPerToken, front, kWide),
                 plane_svg(points, kPerToken, front, kNarrow));
  page += table(findings.rows);
  page += notes_list(findings.notes);
  if (findings.comparable) page += longer_planes(findings.rows);
  if (!curves.empty()) {
    page +=
        "<h2>Training</h2>\n<p class=\"caption\">Lines: training loss, smoothed. Dots: "
        "validation loss. What is above the chart in the first tokens is cut off.</p>\n";
    page += figure(curves_svg(curves, kWide), curves_svg(curves, kNarrow));
  }
  page +=
      cat("<section class=\"reading\">\n", kReading,
          "</section>\n<footer>kvsmith " KVSMITH_VERSION "<span class=\"files\"> · the numbers: ",
          data_link(report_csv(runs), "text/csv", "report.csv"), "</span></footer>\n");
  return page + "</body>\n</html>\n";
}

}  // namespace kvsmith
