#include "report/methods.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <set>
#include <tuple>
#include <utility>

#include "core/text.h"
#include "report/chart_scale.h"
#include "report/measurement.h"

namespace kvsmith {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kTolerated = 1.05;  // of the lowest perplexity

MethodFigures figures_of(const Json& evaluation) {
  const Json& resident = evaluation.at("resident");
  const auto bytes = [&](const char* key) { return resident.at(key).get<double>(); };
  const auto number = [&](const char* key) { return evaluation.at(key).get<double>(); };
  const Json& interval = evaluation.at("perplexity_interval");
  return {.max_bytes = bytes("max_bytes"),
          .peak_bytes = bytes("peak_bytes"),
          .read_bytes_per_token = bytes("read_bytes_per_token"),
          .payload = bytes("payload"),
          .codec_metadata = bytes("codec_metadata"),
          .index = bytes("index"),
          .policy_state = bytes("policy_state"),
          .perplexity_full = number("perplexity_full"),
          .perplexity_low = interval.at(0).get<double>(),
          .perplexity_high = interval.at(1).get<double>(),
          .kl_to_full = number("kl_to_full"),
          .top1_agreement = number("top1_agreement")};
}

std::map<std::string, ProbeMean> probes_of(const Json& evaluation) {
  std::map<std::string, ProbeMean> means;
  std::map<std::string, double> counts;
  for (const Json& probe : evaluation.value("probes", Json::array())) {
    const auto task = probe.at("task").get<std::string>();
    ProbeMean& mean = means[task];
    mean.accuracy += probe.at("token_accuracy").get<double>();
    mean.grid +=
        cat(mean.grid.empty() ? "" : "; ", "length ", probe.at("length").dump(), " depth ",
            probe.at("depth").dump(), ", ", probe.value("samples", Json()).dump(), " samples");
    ++counts[task];
  }
  for (auto& [task, mean] : means) mean.accuracy /= counts[task];
  return means;
}

MethodPoint point_of(const ReportRun& run) {
  const Json& evaluation = run.evaluation;
  const auto text = [&](const char* key) { return evaluation.at(key).get<std::string>(); };
  MethodPoint point = {.checkpoint = text("name"),
                       .architecture = text("architecture"),
                       .dtype = evaluation.at("cache").value("dtype", ""),
                       .method = "own cache",
                       .corpus = text("corpus"),
                       .split = text("split"),
                       .protocol = text("protocol"),
                       .context = evaluation.at("context").get<double>(),
                       .tokens = evaluation.at("tokens").get<double>(),
                       .perplexity = evaluation.at("perplexity").get<double>(),
                       .stride = optional_number(evaluation, "stride"),
                       .probes = probes_of(evaluation)};
  if (!has_method(run)) {
    point.mean_bytes = mean_bytes_of_windows(evaluation);
    return point;
  }
  const Json& method = evaluation.at("method");
  point.method = method.at("name").get<std::string>();
  point.retention = method.at("retention").get<std::string>();
  point.codec_k = method.at("codec_k").get<std::string>();
  point.codec_v = method.at("codec_v").get<std::string>();
  const double budget = method.at("budget_tokens").get<double>();
  if (budget > 0) point.budget_tokens = budget;
  const auto is_as_computed = [&](const std::string& codec) {
    return codec == "model" || codec == point.dtype;
  };
  point.keeps_all = point.retention == "full" && method.value("depth_merge", "none") == "none" &&
                    is_as_computed(point.codec_k) && is_as_computed(point.codec_v);
  point.seed = optional_number(method, "seed");
  point.mean_bytes = evaluation.at("resident").at("mean_bytes").get<double>();
  point.figures = figures_of(evaluation);
  return point;
}

/// Where a checkpoint lies and how far it was trained: two may have one name.
std::string identity_of(const Json& evaluation) {
  return cat(evaluation.at("name").dump(), evaluation.value("checkpoint", Json()).dump(),
             evaluation.value("step", Json()).dump());
}

/// Numbers the checkpoints that have a name of others.
void name_checkpoints(const std::vector<ReportRun>& runs, std::vector<MethodPoint>& points) {
  std::map<std::string, std::string> names;
  std::set<std::string> used;
  for (size_t i = 0; i < runs.size(); ++i) {
    const std::string identity = identity_of(runs[i].evaluation);
    if (!names.contains(identity)) {
      std::string name = points[i].checkpoint;
      for (int k = 2; !used.insert(name).second; ++k)
        name = cat(points[i].checkpoint, " (", k, ")");
      names[identity] = name;
    }
    points[i].checkpoint = names[identity];
  }
}

/// Adds to methods of one name, on one checkpoint measured alike, the options in which they differ.
void tell_apart(const std::vector<ReportRun>& runs,
                const std::vector<Measurement>& measurements,
                std::vector<MethodPoint>& points) {
  std::map<std::tuple<Measurement, std::string, std::string>, std::vector<size_t>> alike;
  std::vector<Json> options;
  for (size_t i = 0; i < points.size(); ++i) {
    alike[{measurements[i], points[i].checkpoint, points[i].method}].push_back(i);
    options.push_back(runs[i].evaluation.value("method", Json::object()));
    options.back()["dtype"] = points[i].dtype;
  }
  for (const auto& group : alike) {
    const auto& members = group.second;
    const Json& first = options[members[0]];
    for (const auto& [key, value] : first.items()) {
      const auto differs = [&, &name = key](size_t i) {
        return options[i].value(name, Json()) != first.at(name);
      };
      if (std::ranges::none_of(members, differs)) continue;
      for (const size_t i : members)
        points[i].method += cat(", ", key, " ", as_text(options[i].value(key, Json())));
    }
  }
}

/// The point of the same checkpoint, type and measurement whose cache kept all as computed.
std::optional<size_t> whole_of(size_t i,
                               const std::vector<Measurement>& measurements,
                               const std::vector<MethodPoint>& points) {
  for (size_t full = 0; full < points.size(); ++full) {
    const MethodPoint& p = points[full];
    if (p.keeps_all && p.checkpoint == points[i].checkpoint && p.dtype == points[i].dtype &&
        measurements[full] == measurements[i]) {
      return full;
    }
  }
  return std::nullopt;
}

/// Shares of the full cache. What was evaluated without a method steps back where its cache was
/// also read through one: it is the same point, with a mean that was measured.
void compare_with_full(const std::vector<Measurement>& measurements,
                       std::vector<MethodPoint>& points) {
  for (size_t i = 0; i < points.size(); ++i) {
    const auto full = whole_of(i, measurements, points);
    if (!full) continue;
    if (!points[i].figures) {
      points[i].mean_bytes.reset();
      points[i].repeats_full = true;
    } else if (*points[*full].mean_bytes > 0) {
      points[i].share_of_full = *points[i].mean_bytes / *points[*full].mean_bytes;
    }
  }
}

std::string title_of(const Measurement& measurement, const std::vector<Measurement>& all) {
  std::string title = cat("Context ", measurement.at("context"));
  for (const char* key : {"corpus", "split", "protocol", "prefill", "chunk"}) {
    const auto differs = [&](const Measurement& m) { return m.at(key) != measurement.at(key); };
    if (measurement.at(key) != "none" && std::ranges::any_of(all, differs))
      title += cat(", ", key, " ", measurement.at(key));
  }
  if (measurement.at("stride") != measurement.at("context"))
    title += cat(", stride ", measurement.at("stride"));
  return title;
}

std::string finding_of(const MethodPanel& panel, const std::vector<MethodPoint>& points) {
  const auto at = [&](size_t i) -> const MethodPoint& { return points[i]; };
  const auto perplexity = [&](size_t i) { return at(i).perplexity; };
  const MethodPoint& large = at(*std::ranges::max_element(panel.points, {}, [&](size_t i) {
    return std::tuple(at(i).keeps_all || !at(i).figures, *at(i).mean_bytes, -at(i).perplexity);
  }));
  const double best = perplexity(*std::ranges::min_element(panel.points, {}, perplexity));
  std::vector<size_t> good;
  for (const size_t i : panel.points)
    if (at(i).perplexity <= kTolerated * best) good.push_back(i);
  const MethodPoint& small = at(*std::ranges::min_element(
      good, {}, [&](size_t i) { return std::pair(*at(i).mean_bytes, at(i).perplexity); }));
  const std::string held = compact_bytes(*small.mean_bytes);
  if (panel.points.size() == 1) {
    return cat(full_name(small), " holds ", held, " at perplexity ", fixed(small.perplexity, 2),
               ".");
  }
  if (*small.mean_bytes <= 0 || *small.mean_bytes == *large.mean_bytes) {
    return cat("Of ", panel.points.size(), " points none within 5 % of the lowest perplexity is ",
               "smaller than ", full_name(large), ", ", compact_bytes(*large.mean_bytes), ".");
  }
  const double change = 100 * (small.perplexity / large.perplexity - 1);
  return cat("Of ", panel.points.size(), " points the smallest within 5 % of the lowest perplexity",
             " is ", full_name(small), ": ", held, ", ",
             fixed(*large.mean_bytes / *small.mean_bytes, 1), "x less than ", full_name(large),
             ", at ", change < 0 ? "-" : "+", fixed(std::abs(change), 1), " % perplexity.");
}

std::vector<MethodPanel> panels_of(const std::vector<Measurement>& measurements,
                                   std::vector<MethodPoint>& points) {
  std::map<std::pair<double, Measurement>, MethodPanel> panels;
  for (size_t i = 0; i < points.size(); ++i)
    if (points[i].mean_bytes) panels[{points[i].context, measurements[i]}].points.push_back(i);
  std::vector<Measurement> kinds;
  for (const auto& [key, panel] : panels) kinds.push_back(key.second);
  std::vector<MethodPanel> out;
  for (auto& [key, panel] : panels) {
    const auto standing = [&](size_t i) {
      return Standing{*points[i].mean_bytes, points[i].perplexity};
    };
    for (const size_t i : panel.points) {
      points[i].pareto = std::ranges::none_of(
          panel.points, [&](size_t other) { return standing(other).dominates(standing(i)); });
    }
    panel.title = title_of(key.second, kinds);
    panel.conditions = conditions_of(key.second);
    panel.finding = finding_of(panel, points);
    out.push_back(std::move(panel));
  }
  return out;
}

std::vector<std::string> notes_on(const std::vector<MethodPoint>& points) {
  std::vector<std::string> notes;
  for (const auto& point : points) {
    if (point.figures || point.repeats_full) continue;
    const std::string name = cat(point.checkpoint, " at context ", fixed(point.context, 0));
    notes.push_back(
        point.mean_bytes
            ? cat(name,
                  " was evaluated without --cache: its mean bytes are those of full windows, ",
                  "computed from the lengths at which its cache was measured.")
            : cat(name, " was evaluated without --cache, so that the mean of its bytes is not ",
                  "known; evaluate it with `--cache full` to see it beside the methods."));
  }
  return notes;
}

}  // namespace

bool has_method(const ReportRun& run) { return run.evaluation.contains("method"); }

std::string full_name(const MethodPoint& point) {
  return cat(point.checkpoint, ": ", point.method);
}

std::optional<double> mean_bytes_of_windows(const Json& evaluation) {
  const auto context = evaluation.at("context").get<double>();
  const auto documents = optional_number(evaluation, "documents");
  const bool mostly_full =
      documents && *documents > 0 && evaluation.at("tokens").get<double>() / *documents >= context;
  if (evaluation.at("protocol") != "decode" || !mostly_full) return std::nullopt;

  const Json& cache = evaluation.at("cache");
  std::map<double, double> measured;  // bytes by tokens
  measured[optional_number(cache, "tokens").value_or(context)] =
      cache.at("bytes_measured").get<double>();
  measured[static_cast<double>(kLongContext)] = cache.at("bytes_at_8k").get<double>();
  for (const Json& at : cache.value("lengths", Json::array()))
    measured[at.at("tokens").get<double>()] = at.at("bytes_measured").get<double>();
  if (measured.size() == 1) measured[0] = 0;

  double sum = 0;
  for (int64_t step = 1; step <= static_cast<int64_t>(context); ++step) {
    const auto tokens = static_cast<double>(step);
    // Before the first length and beyond the last the nearest line goes on.
    auto right = measured.lower_bound(tokens);
    if (right == measured.begin()) ++right;
    if (right == measured.end()) --right;
    const auto left = std::prev(right);
    const double slope = (right->second - left->second) / (right->first - left->first);
    sum += std::max(0.0, left->second + slope * (tokens - left->first));
  }
  return context > 0 ? std::optional(sum / context) : std::nullopt;
}

MethodFindings judge_methods(const std::vector<ReportRun>& runs) {
  MethodFindings findings;
  auto& points = findings.points;
  std::vector<Measurement> measurements;
  std::set<std::string> tasks;
  for (const auto& run : runs) {
    points.push_back(point_of(run));
    measurements.push_back(measurement_of(run.evaluation));
    for (const auto& [task, mean] : points.back().probes) tasks.insert(task);
  }
  findings.tasks.assign(tasks.begin(), tasks.end());
  name_checkpoints(runs, points);
  tell_apart(runs, measurements, points);
  compare_with_full(measurements, points);
  findings.panels = panels_of(measurements, points);
  findings.notes = notes_on(points);
  const MethodPanel& longest = findings.panels.back();
  findings.summary =
      findings.panels.size() > 1 ? cat(longest.title, ". ", longest.finding) : longest.finding;
  return findings;
}

}  // namespace kvsmith
