#include <csignal>
#include <set>
#include <string>

#include <gtest/gtest.h>
#include <sys/syscall.h>

#include "core/files.h"
#include "tests/core/call_filter.h"
#include "tests/support/child.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_directory.h"

namespace kvsmith {
namespace {

/// Lets the next renameat() kill this process.
bool die_at_rename() {
  return answer_calls({SYS_renameat, SYS_renameat2}, SECCOMP_RET_KILL_PROCESS);
}

TEST(Links, AreReplacedAndLeaveNothingBeside) {
  const TemporaryDirectory directory;
  for (const char* target : {"step-1", "step-2"}) {
    replace_link(directory / "latest", target);
    EXPECT_EQ(std::filesystem::read_symlink(directory / "latest"), target);
  }
  EXPECT_EQ(directory.names(), std::set<std::string>{"latest"});
  write_file(directory / "file", "x");
  expect_error([&] { replace_link(directory / "file", "step-1"); }, ExitCode::kCannotCreate, "");
}

TEST(Links, WhatAKilledReplacementLeavesIsSwept) {
  const TemporaryDirectory directory;
  const int code = in_child([&] {
    if (!die_at_rename()) return kNotPossibleHere;
    replace_link(directory / "latest", "step-1");
    return 0;
  });
  if (code == kNotPossibleHere) GTEST_SKIP() << "no seccomp filters here";
  EXPECT_EQ(code, 1000 + SIGSYS);
  EXPECT_EQ(directory.names().size(), 1);
  sweep_temporaries(directory.path());
  EXPECT_EQ(directory.names(), std::set<std::string>{});
}

}  // namespace
}  // namespace kvsmith
