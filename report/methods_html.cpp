#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "core/text.h"
#include "report/chart_scale.h"
#include "report/method_columns.h"
#include "report/page_parts.h"
#include "report/svg_parts.h"

namespace kvsmith {
namespace {

constexpr size_t kMostLabels = 15;  // of a chart; in a larger crowd only the front is named
constexpr const char* kResident = "Resident bytes of a sequence";

/// What points can be told apart, and filtered, by.
struct Facet {
  std::string name, heading;
  std::vector<std::string> values;         ///< one for each point
  std::map<std::string, size_t> numbered;  ///< each value once, with its number

  size_t number_at(size_t point) const { return numbered.at(values[point]); }
};

std::string codec_of(const MethodPoint& point) {
  return point.codec_k == point.codec_v ? point.codec_k : point.codec_k + "/" + point.codec_v;
}

template <class ValueOf>
Facet facet_of(const MethodFindings& findings,
               std::string name,
               std::string heading,
               const ValueOf& value_of) {
  Facet facet{.name = std::move(name), .heading = std::move(heading), .values = {}, .numbered = {}};
  for (const auto& point : findings.points) facet.values.push_back(value_of(point));
  const std::set<std::string> distinct(facet.values.begin(), facet.values.end());
  for (const auto& value : distinct) facet.numbered.emplace(value, facet.numbered.size());
  return facet;
}

std::vector<Facet> facets_of(const MethodFindings& findings) {
  return {facet_of(findings, "checkpoint", "Checkpoint",
                   [](const MethodPoint& p) { return p.checkpoint; }),
          facet_of(findings, "architecture", "Architecture",
                   [](const MethodPoint& p) { return p.architecture; }),
          facet_of(findings, "retention", "Retention",
                   [](const MethodPoint& p) { return p.retention; }),
          facet_of(findings, "codec", "Codec (keys/values)", codec_of)};
}

/// What colour and shape stand for: the first two facets in which points differ.
struct Key {
  const Facet* colour = nullptr;
  const Facet* shape = nullptr;

  size_t run_of(size_t point) const {
    return (colour != nullptr ? colour->number_at(point) : 0) +
           kColours * (shape != nullptr ? shape->number_at(point) : 0);
  }
};

Key key_of(const std::vector<Facet>& facets) {
  Key key;
  for (const auto& facet : facets) {
    // Checkpoints have one architecture each; it would only repeat them.
    if (facet.numbered.size() < 2 || facet.name == "architecture") continue;
    if (key.colour == nullptr) {
      key.colour = &facet;
      // More values than colours take the shapes as well.
      if (facet.numbered.size() > kColours) break;
    } else if (key.shape == nullptr) {
      key.shape = &facet;
    }
  }
  return key;
}

std::string percent(double share) { return fixed(100 * share, 1) + " %"; }

/// The name without saying twice how keys and values are stored.
std::string label_of(const MethodPoint& point, bool one_checkpoint) {
  std::string label = one_checkpoint ? point.method : full_name(point);
  const std::string pair = cat(point.codec_k, "/", point.codec_v);
  const size_t at = label.find(pair);
  if (at != label.npos && point.codec_k == point.codec_v)
    label.replace(at, pair.size(), point.codec_k);
  return label;
}

/// All that is known of a point, a line for each kind.
std::string hover_of(const MethodPoint& point) {
  std::string out = cat(full_name(point), "\nresident ", compact_bytes(*point.mean_bytes), " mean");
  if (const auto& f = point.figures) {
    out += cat(", ", compact_bytes(f->max_bytes), " max, ", compact_bytes(f->peak_bytes), " peak");
    if (point.share_of_full) out += cat("; ", percent(*point.share_of_full), " of the full cache");
    out +=
        cat("\nat the end: payload ", compact_bytes(f->payload), ", codec metadata ",
            compact_bytes(f->codec_metadata), ", index ", compact_bytes(f->index),
            ", policy state ", compact_bytes(f->policy_state), "\nperplexity ",
            fixed(point.perplexity, 2), " (95 %: ", fixed(f->perplexity_low, 2), " to ",
            fixed(f->perplexity_high, 2), "), with all kept ", fixed(f->perplexity_full, 2),
            "\nKL to full ", nats_text(f->kl_to_full), " nats, top-1 ", percent(f->top1_agreement));
  } else {
    out += cat("\nperplexity ", fixed(point.perplexity, 2));
  }
  std::vector<std::string> probes;
  for (const auto& [task, mean] : point.probes)
    probes.push_back(cat(task, " ", percent(mean.accuracy)));
  if (!probes.empty()) out += "\n" + join(probes);
  return out + cat("\n", point.architecture, "; protocol ", point.protocol, ", context ",
                   fixed(point.context, 0), ", ", grouped(point.tokens), " tokens");
}

/// The points of `indices` with `y_of` each; the front is of these and of this y.
template <class YOf>
PlaneChart chart_of(const MethodFindings& findings,
                    const std::vector<size_t>& indices,
                    const YOf& y_of,
                    bool higher_is_better) {
  const auto facets = facets_of(findings);
  const Key key = key_of(facets);
  const bool one_checkpoint = facets[0].numbered.size() == 1;
  const auto standing = [&](size_t i) {
    const MethodPoint& point = findings.points[i];
    return Standing{*point.mean_bytes, higher_is_better ? -y_of(point) : y_of(point)};
  };
  PlaneChart chart{.points = {}, .bytes_of = kResident, .higher_is_better = higher_is_better};
  for (const size_t i : indices) {
    const MethodPoint& point = findings.points[i];
    const bool front = std::ranges::none_of(
        indices, [&](size_t other) { return standing(other).dominates(standing(i)); });
    const bool labelled = front || indices.size() <= kMostLabels;
    chart.points.push_back({.bytes = *point.mean_bytes,
                            .y = y_of(point),
                            .label = labelled ? label_of(point, one_checkpoint) : "",
                            .hover = hover_of(point),
                            .on_front = front,
                            .run = key.run_of(i),
                            .row = i});
  }
  return chart;
}

PlaneChart perplexity_chart(const MethodFindings& findings, const MethodPanel& panel) {
  auto chart = chart_of(
      findings, panel.points, [](const MethodPoint& point) { return point.perplexity; }, false);
  chart.title = panel.title;
  return chart;
}

/// One for each panel, probe, and grid of lengths and depths: other grids are other questions.
std::vector<PlaneChart> recall_charts(const MethodFindings& findings) {
  std::vector<PlaneChart> charts;
  for (const auto& panel : findings.panels) {
    for (const auto& task : findings.tasks) {
      std::map<std::string, std::vector<size_t>> asked;
      for (const size_t i : panel.points) {
        const auto found = findings.points[i].probes.find(task);
        if (found != findings.points[i].probes.end()) asked[found->second.grid].push_back(i);
      }
      for (const auto& [grid, indices] : asked) {
        auto chart = chart_of(
            findings, indices,
            [&](const MethodPoint& point) { return point.probes.at(task).accuracy; }, true);
        chart.title = cat(panel.title, ", ", task, asked.size() > 1 ? ", " + grid : "");
        chart.y = "Recall accuracy";
        charts.push_back(std::move(chart));
      }
    }
  }
  return charts;
}

std::string multiples(const std::vector<PlaneChart>& charts) {
  if (charts.size() == 1)
    return cat("<h3>", escape_markup(charts[0].title), "</h3>\n",
               figure(plane_svg(charts[0], kWide), plane_svg(charts[0], kNarrow)));
  std::string out = "<figure class=\"multiples\">\n";
  for (const auto& chart : charts)
    out += cat("<div><h3>", escape_markup(chart.title), "</h3>\n", plane_svg(chart, kHalf),
               "</div>\n");
  return out + "</figure>\n";
}

/// The legend of colours and shapes; a script makes filters of it.
std::string legend(const MethodFindings& findings) {
  const auto facets = facets_of(findings);
  const Key key = key_of(facets);
  std::string out = "<div class=\"facets\">\n";
  for (const auto& facet : facets) {
    const bool coloured = &facet == key.colour, shaped = &facet == key.shape;
    out += cat("<fieldset data-facet=\"", facet.name, "\"", shaped ? " class=\"neutral\"" : "",
               "><legend>", facet.heading, "</legend>");
    for (const auto& [value, number] : facet.numbered) {
      out += cat("<label data-value=\"", escape_markup(value), "\">",
                 coloured ? mark_svg(number, true)
                 : shaped ? mark_svg(kColours * number, true)
                          : "",
                 escape_markup(value), "</label>\n");
    }
    out += "</fieldset>\n";
  }
  return out + "</div>\n";
}

std::string points_table(const MethodFindings& findings) {
  const auto facets = facets_of(findings);
  const Key key = key_of(facets);
  std::vector<MethodColumn> columns;
  for (auto& column : method_columns(findings))
    if (!column.heading.empty()) columns.push_back(std::move(column));
  std::string head, body;
  for (const auto& column : columns) {
    const bool is_text = column.unit == MethodColumn::Unit::kText;
    head += cat("<th scope=\"col\"", is_text ? " class=\"text\"" : "", ">",
                escape_markup(column.heading), "</th>");
  }
  for (const size_t i : table_order(findings)) {
    const MethodPoint& point = findings.points[i];
    body += cat("<tr data-point=\"", i, "\"");
    for (const auto& facet : facets)
      body += cat(" data-", facet.name, "=\"", escape_markup(facet.values[i]), "\"");
    body += ">";
    for (const auto& column : columns) {
      const auto value = column.value(point);
      const bool first = &column == &columns.front(), is_number = value.is_number();
      body += cat("<td", is_number ? cat(" data-value=\"", value.dump(), "\"") : "",
                  column.unit == MethodColumn::Unit::kText ? " class=\"text\"" : "",
                  column.unit == MethodColumn::Unit::kBytes && is_number
                      ? cat(" title=\"", grouped(value.get<double>()), " B\"")
                      : "",
                  ">", first ? mark_svg(key.run_of(i), point.pareto.value_or(false)) : "",
                  escape_markup(column.text(point, "–")), "</td>");
    }
    body += "</tr>\n";
  }
  return cat("<div class=\"scroll\"><table class=\"points\"><thead><tr>", head,
             "</tr></thead>\n<tbody>\n", body, "</tbody></table></div>\n");
}

}  // namespace

std::vector<PlaneChart> method_charts(const MethodFindings& findings) {
  std::vector<PlaneChart> charts;
  for (const auto& panel : findings.panels) charts.push_back(perplexity_chart(findings, panel));
  return charts;
}

std::string methods_section(const MethodFindings& findings) {
  std::string out = "<h2>Cache methods</h2>\n";
  for (const auto& panel : findings.panels) {
    out += cat("<p class=\"caption\">", escape_markup(panel.conditions),
               findings.panels.size() > 1 ? cat(" ", escape_markup(panel.finding)) : "", "</p>\n");
  }
  out += legend(findings);
  out += multiples(method_charts(findings));
  const auto recall = recall_charts(findings);
  if (!recall.empty()) {
    out +=
        "<h2>Recall</h2>\n<p class=\"caption\">Share of answer tokens that are the likeliest ones, "
        "mean over the lengths and depths of a probe; bytes are those of the text above.</p>\n";
    out += multiples(recall);
  }
  out += "<h2>All points</h2>\n" + points_table(findings);
  return out + notes_list(findings.notes);
}

}  // namespace kvsmith
