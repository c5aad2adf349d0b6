#include <algorithm>
#include <cmath>
#include <functional>
#include <string_view>

#include "core/text.h"
#include "report/chart_scale.h"
#include "report/measurement.h"
#include "report/methods.h"
#include "report/page_parts.h"
#include "report/report.h"
#include "report/svg.h"

namespace kvsmith {
namespace {

constexpr const char* kPerToken = "KV cache per token";

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
  return cat("<table class=\"runs\"><thead><tr>", head, "</tr></thead>\n<tbody>\n", body,
             "</tbody></table>\n");
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
         .y = row.perplexity,
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
        return Standing{other.bytes, other.y}.dominates({point.bytes, point.y});
      });
    }
    out += cat("<div>", plane_svg({.points = points, .bytes_of = "KV cache " + what}, kHalf),
               "</div>\n");
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
                                   const std::vector<std::string>& labels) {
  constexpr size_t kMostPoints = 300;
  std::vector<LossCurve> curves;
  for (size_t i = 0; i < runs.size(); ++i) {
    const auto& points = runs[i].curve;
    if (points.empty()) continue;
    LossCurve curve{.label = labels[i], .training = {}, .validation = {}, .run = i};
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

constexpr std::string_view kReadingMethods = R"html(<p><b>Cache methods</b> change what a cache
keeps while it runs; a mark is then a method on a model, and in one chart only with others of the
same text, context and protocol. <b>Mean</b>, <b>max</b> and <b>peak</b> are bytes of one sequence:
the first two after a step, peak with reserved rows and decoded copies. <b>95 %</b> is the interval
of paired bootstrap samples of windows, <b>KL to full</b> the divergence from the model that keeps
everything, in nats a token, <b>top-1</b> how often both find the same next token the likeliest.</p>
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

/// Plane, table and training of runs without a method. `named` are all runs that may have a curve,
/// those of `findings` first.
std::string runs_section(const std::vector<ReportRun>& named, const Findings& findings) {
  std::string out;
  std::vector<std::string> labels;
  for (size_t i = 0; i < named.size(); ++i) {
    labels.push_back(i < findings.rows.size() ? findings.rows[i].label
                                              : as_text(named[i].evaluation.at("name")));
  }
  if (!findings.rows.empty()) {
    const PlaneChart chart{.points = points_per_token(findings.rows),
                           .bytes_of = kPerToken,
                           .with_front = findings.comparable};
    out += cat("<h2>Memory and perplexity</h2>\n<p class=\"caption\">",
               escape_markup(findings.conditions), "</p>\n",
               figure(plane_svg(chart, kWide), plane_svg(chart, kNarrow)), table(findings.rows),
               notes_list(findings.notes));
    if (findings.comparable) out += longer_planes(findings.rows);
  }
  const auto curves = loss_curves(named, labels);
  if (!curves.empty()) {
    out +=
        "<h2>Training</h2>\n<p class=\"caption\">Lines: training loss, smoothed. Dots: "
        "validation loss. What is above the chart in the first tokens is cut off.</p>\n";
    out += figure(curves_svg(curves, kWide), curves_svg(curves, kNarrow));
  }
  return out;
}

}  // namespace

std::string report_svg(const std::vector<ReportRun>& runs, const std::string& title) {
  if (std::ranges::any_of(runs, has_method))
    return standalone_svg(method_charts(judge_methods(runs)), title);
  const Findings findings = judge_runs(runs);
  return standalone_svg({{.points = points_per_token(findings.rows),
                          .bytes_of = kPerToken,
                          .with_front = findings.comparable}},
                        title);
}

std::string report_html(const std::vector<ReportRun>& runs, const std::string& title) {
  // Those without a method first.
  std::vector<ReportRun> ordered = runs;
  const auto with_method = std::ranges::stable_partition(ordered, std::not_fn(has_method));
  const std::vector<ReportRun> plain(ordered.begin(), with_method.begin());
  const bool of_methods = !with_method.empty();
  const Findings findings = of_methods && plain.empty() ? Findings{} : judge_runs(plain);
  const MethodFindings methods = of_methods ? judge_methods(runs) : MethodFindings{};

  std::string page =
      cat("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
          "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
          "<meta name=\"color-scheme\" content=\"light dark\">\n"
          "<meta name=\"generator\" content=\"kvsmith " KVSMITH_VERSION "\">\n<title>",
          escape_markup(title), "</title>\n<style>", chart_css(), page_css(),
          "</style>\n</head>\n<body>\n<h1>", escape_markup(title), "</h1>\n<p class=\"summary\">",
          escape_markup(of_methods ? methods.summary : headline(findings)), "</p>\n");
  if (of_methods) page += methods_section(methods);
  page += runs_section(ordered, findings);
  page +=
      cat("<section class=\"reading\">\n", kReading, of_methods ? kReadingMethods : "",
          "</section>\n<footer>kvsmith " KVSMITH_VERSION "<span class=\"files\"> · the numbers: ",
          data_link(report_csv(runs), "text/csv", "report.csv"), "</span></footer>\n");
  if (of_methods) page += cat("<script>", page_script(), "</script>\n");
  return page + "</body>\n</html>\n";
}

}  // namespace kvsmith
