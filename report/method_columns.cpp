#include "report/method_columns.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <utility>

#include "core/text.h"
#include "report/chart_scale.h"
#include "report/measurement.h"

namespace kvsmith {
namespace {

using Json = nlohmann::ordered_json;
using Unit = MethodColumn::Unit;

/// Whole numbers without ".0".
Json number(const std::optional<double>& value) {
  if (!value) return {};
  const bool whole = *value == std::floor(*value) && std::abs(*value) < 1e15;
  return whole ? Json(static_cast<int64_t>(*value)) : Json(*value);
}

template <class Member>
auto member_of(Member member) {
  return [member](const MethodPoint& point) -> Json {
    if constexpr (std::is_same_v<Member, std::string MethodPoint::*>) {
      return point.*member;
    } else {
      return number(point.*member);
    }
  };
}

auto figure(double MethodFigures::* member) {
  return [member](const MethodPoint& point) {
    return point.figures ? number((*point.figures).*member) : Json();
  };
}

/// A run without a method was not told which rows to keep and how, though it keeps all as computed.
auto setting(std::string MethodPoint::* member) {
  return
      [member](const MethodPoint& point) { return point.figures ? Json(point.*member) : Json(); };
}

}  // namespace

std::string MethodColumn::text(const MethodPoint& point, const std::string& unknown) const {
  const Json found = value(point);
  if (found.is_null()) return unknown;
  if (!found.is_number()) return as_text(found);
  const auto plain = found.get<double>();
  switch (unit) {
    case Unit::kBytes:
      return compact_bytes(plain);
    case Unit::kShare:
      return fixed(100 * plain, 1) + " %";
    case Unit::kPerplexity:
      return fixed(plain, 2);
    case Unit::kNats:
      return nats_text(plain);
    default:
      return found.dump();
  }
}

std::vector<MethodColumn> method_columns(const MethodFindings& findings) {
  using P = MethodPoint;
  using F = MethodFigures;
  std::vector<MethodColumn> columns = {
      {"checkpoint", "Checkpoint", "checkpoint", Unit::kText, member_of(&P::checkpoint)},
      {"architecture", "Architecture", "", Unit::kText, member_of(&P::architecture)},
      {"method", "Method", "method", Unit::kText, member_of(&P::method)},
      {"retention", "Retention", "", Unit::kText, setting(&P::retention)},
      {"codec_k", "Keys", "", Unit::kText, setting(&P::codec_k)},
      {"codec_v", "Values", "", Unit::kText, setting(&P::codec_v)},
      {"budget_tokens", "Budget", "", Unit::kNumber, member_of(&P::budget_tokens)},
      {"seed", "Seed", "", Unit::kNumber, member_of(&P::seed)},
      {"context", "Context", "context", Unit::kNumber, member_of(&P::context)},
      {"resident_mean_bytes", "Mean", "mean", Unit::kBytes, member_of(&P::mean_bytes)},
      {"resident_max_bytes", "Max", "", Unit::kBytes, figure(&F::max_bytes)},
      {"resident_peak_bytes", "Peak", "peak", Unit::kBytes, figure(&F::peak_bytes)},
      {"payload_bytes", "", "", Unit::kBytes, figure(&F::payload)},
      {"codec_metadata_bytes", "", "", Unit::kBytes, figure(&F::codec_metadata)},
      {"index_bytes", "", "", Unit::kBytes, figure(&F::index)},
      {"policy_state_bytes", "", "", Unit::kBytes, figure(&F::policy_state)},
      {"read_bytes_per_token", "", "", Unit::kBytes, figure(&F::read_bytes_per_token)},
      {"share_of_full", "Of full", "of full", Unit::kShare, member_of(&P::share_of_full)},
      {"perplexity", "Perplexity", "perplexity", Unit::kPerplexity, member_of(&P::perplexity)},
      {"perplexity_low", "95 % from", "", Unit::kPerplexity, figure(&F::perplexity_low)},
      {"perplexity_high", "to", "", Unit::kPerplexity, figure(&F::perplexity_high)},
      {"perplexity_full", "", "", Unit::kPerplexity, figure(&F::perplexity_full)},
      {"kl_to_full", "KL to full", "KL", Unit::kNats, figure(&F::kl_to_full)},
      {"top1_agreement", "Top-1", "top-1", Unit::kShare, figure(&F::top1_agreement)}};
  for (const auto& task : findings.tasks) {
    columns.push_back({"probe." + task, task, task, Unit::kShare, [task](const P& point) {
                         const auto found = point.probes.find(task);
                         return found == point.probes.end() ? Json()
                                                            : number(found->second.accuracy);
                       }});
  }
  const std::vector<MethodColumn> rest = {
      {"protocol", "Protocol", "", Unit::kText, member_of(&P::protocol)},
      {"dtype", "", "", Unit::kText, member_of(&P::dtype)},
      {"corpus", "", "", Unit::kText, member_of(&P::corpus)},
      {"split", "", "", Unit::kText, member_of(&P::split)},
      {"stride", "", "", Unit::kNumber, member_of(&P::stride)},
      {"tokens", "Tokens", "", Unit::kNumber, member_of(&P::tokens)},
      {"pareto", "", "", Unit::kText,
       [](const P& point) { return point.pareto ? Json(*point.pareto) : Json(); }}};
  columns.insert(columns.end(), rest.begin(), rest.end());
  return columns;
}

std::string nats_text(double nats) { return fixed(std::abs(nats) < 5e-5 ? 0 : nats, 4); }

std::vector<size_t> table_order(const MethodFindings& findings) {
  std::vector<size_t> order;
  for (const auto& panel : findings.panels) {
    auto points = panel.points;
    std::ranges::stable_sort(points, [&](size_t a, size_t b) {
      return *findings.points[a].mean_bytes > *findings.points[b].mean_bytes;
    });
    order.insert(order.end(), points.begin(), points.end());
  }
  for (size_t i = 0; i < findings.points.size(); ++i)
    if (std::ranges::find(order, i) == order.end()) order.push_back(i);
  return order;
}

}  // namespace kvsmith
