#include <string>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/files.h"
#include "core/text.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_directory.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

TEST(DirectoryLock, TheSecondProcessIsToldAboutTheFirst) {
  const TemporaryDirectory directory;
  int ready[2], done[2];
  ASSERT_EQ(::pipe(ready) | ::pipe(done), 0);
  const pid_t holder = ::fork();
  char byte = 0;
  if (holder == 0) {
    const DirectoryLock lock(directory.path());
    (void)!::write(ready[1], &byte, 1);
    (void)!::read(done[0], &byte, 1);
    ::_exit(0);  // without the destructor: the lock dies with the process
  }
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  expect_error([&] { DirectoryLock(directory.path()); }, ExitCode::kCannotCreate,
               cat(directory.path().string(), ": locked by pid ", holder, " on "));
  ASSERT_EQ(::write(done[1], &byte, 1), 1);
  ::waitpid(holder, nullptr, 0);
  {
    const DirectoryLock lock(directory.path());
  }
  EXPECT_EQ(read_file(directory / "LOCK"), "");
  const DirectoryLock again(directory.path());
  EXPECT_EQ(read_file(directory / "LOCK").find(cat("pid ", ::getpid(), " on ")), 0U);
  for (const int fd : {ready[0], ready[1], done[0], done[1]}) ::close(fd);
}

TEST(DirectoryLock, ItIsNotReleasedByReadingTheFileNorInheritedByPrograms) {
  const TemporaryDirectory directory;
  const DirectoryLock lock(directory.path());
  read_file(directory / "LOCK");
  const auto locked = [&] {
    expect_error([&] { DirectoryLock(directory.path()); }, ExitCode::kCannotCreate, "locked by");
  };
  locked();
  int inherited = 0;
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    if (fs::read_symlink(entry.path(), error).filename() != "LOCK") continue;
    const int fd = std::stoi(entry.path().filename());
    if ((::fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0) ++inherited;
  }
  EXPECT_EQ(inherited, 0);
}

TEST(DirectoryLock, PlantedLinksAreRefused) {
  const TemporaryDirectory directory;
  write_file(directory / "victim", "precious");
  fs::create_symlink(directory / "victim", directory / "LOCK");
  expect_error([&] { DirectoryLock(directory.path()); }, ExitCode::kCannotCreate, "LOCK");
  EXPECT_EQ(read_file(directory / "victim"), "precious");
}

TEST(DirectoryLock, OfManyProcessesOneWins) {
  const TemporaryDirectory directory;
  int go[2];
  ASSERT_EQ(::pipe(go), 0);
  constexpr int kProcesses = 8;
  for (int i = 0; i < kProcesses; ++i) {
    if (::fork() != 0) continue;
    ::close(go[1]);
    int code = 0;
    try {
      const DirectoryLock lock(directory.path());
      char byte = 0;
      (void)!::read(go[0], &byte, 1);  // until the parent has seen all losers
    } catch (const Error& error) {
      code = static_cast<int>(error.code());
    }
    ::_exit(code);
  }
  ::close(go[0]);
  for (int i = 0; i < kProcesses; ++i) {
    if (i == kProcesses - 1) ::close(go[1]);
    int status = 0;
    ::wait(&status);
    EXPECT_EQ(WEXITSTATUS(status), i == kProcesses - 1 ? 0 : 73) << i;
  }
}

}  // namespace
}  // namespace kvsmith
