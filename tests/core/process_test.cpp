#include "core/process.h"

#include <csignal>
#include <cstring>

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/child.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

TEST(Process, PeakMemoryGrowsWithWhatIsUsedAndStays) {
  constexpr size_t kBytes = size_t{64} << 20, kSlack = size_t{8} << 20;
  // Pages of its own: an allocator may keep what is freed.
  void* const pages =
      ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(pages, MAP_FAILED);
  std::memset(pages, 1, kBytes);
  ::munmap(pages, kBytes);
  EXPECT_GT(peak_resident_bytes() + kSlack, kBytes);
}

TEST(RunProgram, GivesOutputAndExitCode) {
  const auto result =
      run_program({"sh", "-c", "echo out; echo \"$1\" >&2; cat; exit 3", "sh", "a b"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_EQ(result.output, "out\na b\n");
  EXPECT_EQ(run_program({"sh", "-c", "kill -9 $$"}).exit_code, 128 + SIGKILL);
  expect_error([] { run_program({"no-such-program-here"}); }, ExitCode::kMissingInput,
               "no-such-program-here: no such program");
}

TEST(RunProgram, KeepsTheEndOfLongOutput) {
  const auto result =
      run_program({"sh", "-c", "i=0; while [ $i -lt 40000 ]; do echo $i; i=$((i+1)); done"});
  EXPECT_TRUE(result.output.ends_with("39998\n39999\n"));
  EXPECT_GE(result.output.size(), size_t{64} << 10);
  EXPECT_LE(result.output.size(), size_t{128} << 10);
}

TEST(StopSignals, TheFirstIsRemembered) {
  for (const int number : {SIGINT, SIGTERM, SIGUSR1}) {
    const StopSignals signals;
    EXPECT_EQ(StopSignals::requested(), 0);
    ::raise(number);
    EXPECT_EQ(StopSignals::requested(), number);
  }
  EXPECT_EQ(StopSignals::requested(), SIGUSR1);
}

TEST(StopSignals, TheSecondLeavesAtOnce) {
  for (const int first : {SIGINT, SIGTERM, SIGUSR1}) {
    for (const int second : {SIGINT, SIGTERM, SIGUSR1}) {
      const int status = in_child([&] {
        const StopSignals signals;
        ::raise(first);
        ::raise(second);
        return 0;
      });
      EXPECT_EQ(status, 128 + second) << first;
    }
  }
}

TEST(StopSignals, AClosedPipeIsAnError) {
  const int status = in_child([] {
    const StopSignals signals;
    int ends[2];
    if (::pipe(ends) != 0) return 1;
    ::close(ends[0]);
    return ::write(ends[1], "x", 1) == -1 && errno == EPIPE ? 0 : 2;
  });
  EXPECT_EQ(status, 0);
}

TEST(StopSignals, BlockedSystemCallsGoOn) {
  const int status = in_child([] {
    const StopSignals signals;
    int ends[2];
    if (::pipe(ends) != 0) return 1;
    const pid_t parent = ::getpid();
    if (::fork() == 0) {
      ::usleep(20'000);
      ::kill(parent, SIGTERM);
      ::usleep(20'000);
      ::_exit(::write(ends[1], "x", 1) == 1 ? 0 : 1);
    }
    char byte = 0;
    const bool read = ::read(ends[0], &byte, 1) == 1;
    ::wait(nullptr);
    return read && StopSignals::requested() == SIGTERM ? 0 : 2;
  });
  EXPECT_EQ(status, 0);
}

TEST(StopSignals, TheDestructorRestoresWhatWasThere) {
  for (const int number : {SIGINT, SIGTERM, SIGUSR1, SIGPIPE, SIGXFSZ}) {
    const int status = in_child([&] {
      {
        const StopSignals signals;
      }
      ::raise(number);
      return 0;
    });
    EXPECT_EQ(status, 1000 + number);
  }
}

}  // namespace
}  // namespace kvsmith
