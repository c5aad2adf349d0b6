#include "core/error.h"

#include <utility>

#include "core/text.h"

namespace kvsmith {
namespace {

std::string message(const Problem& p) {
  std::string text = p.where.empty() ? p.what : p.where + ": " + p.what;
  if (!p.remedy.empty()) text += "; " + p.remedy;
  return printable(text);
}

}  // namespace

Error::Error(ExitCode code, Problem problem)
    : std::runtime_error(message(problem)), code_(code), problem_(std::move(problem)) {}

}  // namespace kvsmith
