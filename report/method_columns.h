#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "report/methods.h"

namespace kvsmith {

/// A column of the tables of cache methods: the page, the terminal and the CSV file have one list.
struct MethodColumn {
  enum class Unit { kText, kNumber, kBytes, kShare, kPerplexity, kNats };

  std::string key;      ///< in the CSV file
  std::string heading;  ///< on the page; empty: not there
  std::string brief;    ///< on the terminal; empty: not there
  Unit unit;
  std::function<nlohmann::ordered_json(const MethodPoint&)> value;  ///< null: not known

  /// The value for reading, `unknown` where there is none.
  std::string text(const MethodPoint& point, const std::string& unknown) const;
};

/// From the checkpoint to its probes.
std::vector<MethodColumn> method_columns(const MethodFindings& findings);

/// A divergence with four decimals; one that is negative by rounding is 0.
std::string nats_text(double nats);

/// Points in the order of tables: panel by panel, large caches first, then those in no panel.
std::vector<size_t> table_order(const MethodFindings& findings);

}  // namespace kvsmith
