#include "evaluate/protocol.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

const std::vector<std::pair<std::string, Protocol>>& protocols() {
  static const std::vector<std::pair<std::string, Protocol>> all = {
      {"decode", Protocol::kDecode},
      {"prefill_continue", Protocol::kPrefillContinue},
      {"chunked", Protocol::kChunked},
      {"replay", Protocol::kReplay},
      {"parallel", Protocol::kParallel}};
  return all;
}

}  // namespace

Protocol protocol_of(const std::string& name) {
  std::vector<std::string> names;
  for (const auto& [known, protocol] : protocols()) {
    if (known == name) return protocol;
    names.push_back(known);
  }
  throw Error(ExitCode::kUsage,
              {"\"" + name + "\" is no protocol", "--protocol", suggestion(name, names)});
}

std::string to_string(Protocol protocol) {
  return std::ranges::find(protocols(), protocol, &std::pair<std::string, Protocol>::second)->first;
}

}  // namespace kvsmith
