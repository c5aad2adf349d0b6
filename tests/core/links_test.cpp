#include <csignal>
#include <cstddef>
#include <set>
#include <string>

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "core/files.h"
#include "tests/support/child.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_directory.h"

namespace kvsmith {
namespace {

/// Lets the next renameat() kill this process.
bool die_at_rename() {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat, 1, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat2, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{.len = 5, .filter = code};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
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
