#pragma once

#include <string>

#include <gtest/gtest.h>

#include "core/text.h"
#include "tests/support/command.h"

namespace kvsmith {

/// Runs the program with these arguments, one after the other as they are.
template <class... Parts>
Outcome kvsmith(const Parts&... arguments) {
  return run_command(cat(KVSMITH_BINARY, " ", arguments...));
}

/// What it prints; `code` is how it has to end.
template <class... Parts>
std::string run_to(int code, const Parts&... arguments) {
  const auto got = kvsmith(arguments...);
  EXPECT_EQ(got.code, code) << cat(arguments...) << "\n" << got.text;
  return got.text;
}

}  // namespace kvsmith
