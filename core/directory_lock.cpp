#include <algorithm>
#include <array>
#include <chrono>
#include <ctime>

#include <fcntl.h>
#include <unistd.h>

#include "core/error.h"
#include "core/files.h"
#include "core/posix.h"
#include "core/text.h"

namespace kvsmith {
namespace {

/// "pid 4711 on node07 since 2025-01-31 12:03:11 UTC".
std::string this_process() {
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  std::array<char, 32> since{};
  std::strftime(since.data(), since.size(), "%Y-%m-%d %H:%M:%S UTC", &utc);
  return cat("pid ", ::getpid(), " on ", host.data(), " since ", since.data());
}

std::string holder_of(int fd) {
  std::array<char, 400> text{};
  const ssize_t got = ::pread(fd, text.data(), text.size(), 0);
  return got > 0 ? std::string(text.data(), static_cast<size_t>(got)) : "another process";
}

}  // namespace

DirectoryLock::DirectoryLock(const std::filesystem::path& directory) {
  const posix::Place place(directory / "LOCK");
  posix::Descriptor file = place.open(O_RDWR | O_CREAT);
  struct flock whole{};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  // A lock of the open file, not of the process: a library that opens and closes LOCK does not
  // release it.
  if (::fcntl(file.get(), F_OFD_SETLK, &whole) != 0) {
    if (errno != EAGAIN && errno != EACCES) posix::fail("lock", place.path, errno);
    throw Error(ExitCode::kCannotCreate,
                {.what = "locked by " + holder_of(file.get()),
                 .where = directory.string(),
                 .remedy = "wait for it, stop it, or choose another directory"});
  }
  if (::ftruncate(file.get(), 0) != 0) posix::fail("write", place.path, errno);
  size_t done = 0;
  posix::write_all(file.get(), this_process(), place.path, done);
  fd_ = file.release();
}

DirectoryLock::~DirectoryLock() {
  // The file stays: removing it could remove the lock of a process that has just opened it.
  (void)!::ftruncate(fd_, 0);
  ::close(fd_);
}

}  // namespace kvsmith
