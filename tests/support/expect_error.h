#pragma once

#include <string>

#include <gtest/gtest.h>

#include "core/error.h"

namespace kvsmith {

/// Expects that `call` throws Error with `code` and with `part` in its text.
template <class Call>
void expect_error(const Call& call, ExitCode code, const std::string& part) {
  try {
    call();
    ADD_FAILURE() << "no error; expected one saying: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
        << "got:      " << error.what() << "\nexpected: " << part;
  }
}

}  // namespace kvsmith
