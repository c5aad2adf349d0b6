#include <functional>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/files.h"
#include "core/text.h"
#include "tests/core/call_filter.h"
#include "tests/core/sample_directory.h"
#include "tests/support/child.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_directory.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

/// Where to save a hundred times without waiting for a disk.
fs::path in_memory() {
  return ::access("/dev/shm", W_OK) == 0 ? "/dev/shm" : fs::temp_directory_path();
}

/// Runs `work` in a child killed at its `n`-th entry to, or return from, a system call. False when
/// the child ended before.
bool killed_at(int n, const std::function<void()>& work) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    ::raise(SIGSTOP);
    work();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  for (int stops = 0; WIFSTOPPED(status); ++stops) {
    if (stops == n) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, &status, 0);
      return true;
    }
    ::ptrace(PTRACE_SYSCALL, pid, nullptr, nullptr);
    ::waitpid(pid, &status, 0);
  }
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  return false;
}

/// The calls of `work` out of `wanted`, in order.
std::vector<long> system_calls_of(const std::function<void()>& work, const std::set<long>& wanted) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    ::raise(SIGSTOP);
    work();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  ::ptrace(PTRACE_SETOPTIONS, pid, nullptr, PTRACE_O_TRACESYSGOOD);
  std::vector<long> calls;
  while (WIFSTOPPED(status)) {
    __ptrace_syscall_info info{};
    ::ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info);
    const bool is_call = info.op == PTRACE_SYSCALL_INFO_ENTRY;
    const auto number = static_cast<long>(info.entry.nr);
    if (is_call && wanted.contains(number)) calls.push_back(number);
    ::ptrace(PTRACE_SYSCALL, pid, nullptr, nullptr);
    ::waitpid(pid, &status, 0);
  }
  return calls;
}

bool can_trace() {
  return in_child([] {
           return ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0 ? 0 : kNotPossibleHere;
         }) == 0;
}

/// Lets renameat2() fail in this process as on file systems without RENAME_EXCHANGE.
bool forbid_exchange() { return answer_calls({SYS_renameat2}, SECCOMP_RET_ERRNO | EINVAL); }

TEST(FilesUnderFaults, DirectoriesReplaceEachOtherWhereNamesCannotBeExchanged) {
  const TemporaryDirectory directory;
  make_directory(directory / "tree", "1");
  const int code = in_child([&] {
    if (!forbid_exchange()) return kNotPossibleHere;
    make_directory(directory / "tree", "2");
    return 0;
  });
  if (code == kNotPossibleHere) GTEST_SKIP() << "no seccomp filters here";
  EXPECT_EQ(code, 0);
  EXPECT_EQ(content_of(directory / "tree"), "2");
  EXPECT_EQ(directory.names(), std::set<std::string>{"tree"});
}

TEST(FilesUnderFaults, AKilledFileIsOldOrNew) {
  if (!can_trace()) GTEST_SKIP() << "ptrace is not permitted";
  const TemporaryDirectory directory(in_memory());
  const std::string old(10'000, 'o');
  const std::string fresh(20'000, 'n');
  std::set<std::string> seen;
  int points = 0;
  for (bool killed = true; killed; ++points) {
    write_file(directory / "file", old);
    killed = killed_at(points, [&] {
      AtomicFile file(directory / "file");
      file.write(fresh.substr(0, 12'000));
      file.write(fresh.substr(12'000));
      file.commit();
    });
    const std::string content = read_file(directory / "file");
    ASSERT_TRUE(content == old || content == fresh) << "killed at stop " << points;
    seen.insert(content.substr(0, 1));
    sweep_temporaries(directory.path());
    ASSERT_EQ(directory.names(), std::set<std::string>{"file"}) << points;
  }
  EXPECT_EQ(seen.size(), 2U);
  EXPECT_GT(points, 20);
}

TEST(FilesUnderFaults, AKilledDirectoryIsOldOrNewAtEveryMoment) {
  if (!can_trace()) GTEST_SKIP() << "ptrace is not permitted";
  const TemporaryDirectory directory(in_memory());
  for (const bool exchange : {true, false}) {
    std::set<std::string> seen;
    int points = 0;
    for (bool killed = true; killed; ++points) {
      make_directory(directory / "tree", "old");
      killed = killed_at(points, [&] {
        if (exchange || forbid_exchange()) make_directory(directory / "tree", "new");
      });
      if (exchange) {
        ASSERT_NE(content_of(directory / "tree"), "missing") << points;
      }
      sweep_temporaries(directory.path());
      const std::string content = content_of(directory / "tree");
      ASSERT_TRUE(content == "old" || content == "new") << content << " at stop " << points;
      seen.insert(content);
      ASSERT_EQ(directory.names(), std::set<std::string>{"tree"}) << points;
    }
    EXPECT_EQ(seen.size(), 2U);
    EXPECT_GT(points, 40);
  }
}

TEST(FilesUnderFaults, ContentIsSyncedBeforeItsNameAndTheNameAfter) {
  if (!can_trace()) GTEST_SKIP() << "ptrace is not permitted";
  const TemporaryDirectory directory(in_memory());
  constexpr long kWrite = SYS_write, kSync = SYS_fsync, kRename = SYS_renameat,
                 kExchange = SYS_renameat2;
  const std::set<long> wanted = {kWrite, kSync, kRename, kExchange};
  using Calls = std::vector<long>;
  const Calls one_file = {kWrite, kSync, kRename, kSync};
  EXPECT_EQ(system_calls_of([&] { write_file(directory / "file", "x"); }, wanted), one_file);
  EXPECT_EQ(system_calls_of([&] { publish_file(directory / "file", directory / "x"); }, wanted),
            (Calls{kSync, kRename, kSync}));
  const auto tree = [&] {
    AtomicDirectory saved(directory / "tree");
    write_file(saved.path() / "a", "x");
    saved.commit();
  };
  // The file; then all of the directory again: file and directory; then its name.
  Calls created = one_file;
  created.insert(created.end(), {kSync, kSync, kRename, kSync});
  EXPECT_EQ(system_calls_of(tree, wanted), created);
  Calls replaced = one_file;
  replaced.insert(replaced.end(), {kSync, kSync, kRename, kExchange, kSync});
  EXPECT_EQ(system_calls_of(tree, wanted), replaced);
}

TEST(FilesUnderFaults, ARemovedDirectoryIsWholeOrGone) {
  if (!can_trace()) GTEST_SKIP() << "ptrace is not permitted";
  const TemporaryDirectory directory(in_memory());
  int points = 0;
  for (bool killed = true; killed; ++points) {
    make_directory(directory / "tree", "1");
    killed = killed_at(points, [&] { remove_durably(directory / "tree"); });
    const std::string content = content_of(directory / "tree");
    ASSERT_TRUE(content == "1" || content == "missing") << content << " at stop " << points;
    sweep_temporaries(directory.path());
    ASSERT_LE(directory.names().size(), 1U) << points;
  }
  EXPECT_GT(points, 10);
  EXPECT_TRUE(fs::is_empty(directory.path()));
  remove_durably(directory / "tree");
}

TEST(FilesUnderFaults, PlacesOfOthersAreAPermissionError) {
  const TemporaryDirectory directory;
  fs::permissions(directory.path(), fs::perms(0555));
  const auto as_nobody = [&](const std::function<void()>& work) {
    return in_child([&] {
      // Root is not bound by modes.
      if (::geteuid() == 0 && ::setresuid(65534, 65534, 65534) != 0) return kNotPossibleHere;
      work();
      return 0;
    });
  };
  const std::function<void()> cases[] = {
      [&] { write_file(directory / "file", "x"); },
      [&] { AtomicDirectory(directory / "tree"); },
      [&] { AppendFile(directory / "lines"); },
      [&] { DirectoryLock(directory.path()); },
      [&] { expect_writable(directory / "file", true); },
  };
  if (as_nobody([] {}) == kNotPossibleHere) GTEST_SKIP() << "cannot give up root here";
  for (const auto& work : cases) {
    EXPECT_EQ(as_nobody(work), static_cast<int>(ExitCode::kPermission)) << &work - cases;
  }
  fs::permissions(directory.path(), fs::perms(0755));
}

TEST(FilesUnderFaults, AFullDeviceIsAnIoError) {
  AppendFile full("/dev/full");
  expect_error([&] { full.append("line\n"); }, ExitCode::kIo, "/dev/full: cannot write: No space");
}

TEST(FilesUnderFaults, AFileSizeLimitIsAnIoErrorAndLeavesTheOldFile) {
  const TemporaryDirectory directory;
  write_file(directory / "file", "old");
  const int code = in_child([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{.rlim_cur = 10'000, .rlim_max = 10'000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    AppendFile lines(directory / "lines");
    lines.append("first\n");
    EXPECT_THROW(lines.append(std::string(20'000, 'x')), Error);
    lines.append("second\n");
    write_file(directory / "file", std::string(20'000, 'x'));
    return 0;
  });
  EXPECT_EQ(code, static_cast<int>(ExitCode::kIo));
  EXPECT_EQ(read_file(directory / "file"), "old");
  EXPECT_EQ(read_file(directory / "lines"), "first\nsecond\n");
  EXPECT_EQ(directory.names(), (std::set<std::string>{"file", "lines"}));
}

TEST(FilesUnderFaults, AFullDiskIsAnIoErrorAndLeavesTheOldFiles) {
  const TemporaryDirectory directory;
  const int code = in_child([&] {
    if (::unshare(CLONE_NEWNS) != 0 ||
        ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("none", directory.path().c_str(), "tmpfs", 0, "size=1m") != 0) {
      return kNotPossibleHere;
    }
    make_directory(directory / "tree", "old");
    const std::string large(4 << 20, 'x');
    try {
      make_directory(directory / "tree", large);
      return 1;
    } catch (const Error& error) {
      if (error.code() != ExitCode::kIo) return 2;
    }
    if (content_of(directory / "tree") != "old") return 3;
    if (directory.names() != std::set<std::string>{"tree"}) return 4;
    write_file(directory / "tree/a", large);
    return 0;
  });
  if (code == kNotPossibleHere) GTEST_SKIP() << "mounting a small file system is not permitted";
  EXPECT_EQ(code, static_cast<int>(ExitCode::kIo));
}

TEST(FilesUnderFaults, LinesAreAppendedWholeByManyWriters) {
  const TemporaryDirectory directory;
  constexpr int kWriters = 4, kLines = 100;
  const std::string tail(3000, '.');
  for (int i = 0; i < kWriters; ++i) {
    if (::fork() != 0) continue;
    AppendFile file(directory / "lines");
    for (int line = 0; line < kLines; ++line) file.append(cat(i, tail, "\n"));
    file.sync();
    ::_exit(0);
  }
  for (int i = 0; i < kWriters; ++i) ::wait(nullptr);
  std::istringstream lines(read_file(directory / "lines"));
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) EXPECT_EQ(line.substr(1), tail);
  EXPECT_EQ(count, kWriters * kLines);
}

}  // namespace
}  // namespace kvsmith
