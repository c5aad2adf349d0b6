#include "tools/byte_size.h"

#include <algorithm>
#include <cctype>
#include <utility>
#include <vector>

#include "core/error.h"

namespace kvsmith {

int64_t parse_bytes(const std::string& text, const std::string& flag) {
  static const std::vector<std::pair<std::string, double>> units = {
      {"b", 1},           {"kb", 1e3},           {"mb", 1e6},
      {"gb", 1e9},        {"tb", 1e12},          {"kib", 1024.0},
      {"mib", 1048576.0}, {"gib", 1073741824.0}, {"tib", 1099511627776.0}};
  size_t end = 0;
  double number = 0;
  try {
    number = std::stod(text, &end);
  } catch (const std::exception&) {
    end = 0;
  }
  std::string given = text.substr(end);
  std::ranges::transform(given, given.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (const auto& [unit, factor] : units) {
    constexpr double kMost = 1e18;
    if (end > 0 && number >= 0 && number * factor < kMost && given == unit)
      return static_cast<int64_t>(number * factor);
  }
  throw Error(ExitCode::kUsage,
              {"cannot read \"" + text + "\"", flag, "write it as 24GiB or 80GB"});
}

}  // namespace kvsmith
