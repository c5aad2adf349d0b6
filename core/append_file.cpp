#include <algorithm>
#include <array>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/files.h"
#include "core/posix.h"

namespace kvsmith {

namespace fs = std::filesystem;
using posix::fail;

AppendFile::AppendFile(fs::path path) {
  const posix::Place place(std::move(path));
  path_ = place.path;
  posix::Descriptor file = place.open(O_WRONLY | O_APPEND | O_CREAT);
  posix::sync_directory(place.fd.get(), place.directory);
  fd_ = file.release();
}

AppendFile::~AppendFile() { ::close(fd_); }

void AppendFile::append(std::string_view bytes) {
  size_t done = 0;
  try {
    posix::write_all(fd_, bytes, path_, done);
  } catch (...) {
    // The offset is the end of our own piece. When that is the end of the file too, nobody has
    // written after it, and taking it back leaves the file as it was.
    const off_t end = ::lseek(fd_, 0, SEEK_CUR);
    struct stat info{};
    if (done > 0 && ::fstat(fd_, &info) == 0 && S_ISREG(info.st_mode) && info.st_size == end) {
      (void)!::ftruncate(fd_, end - static_cast<off_t>(done));
    }
    throw;
  }
}

void AppendFile::sync() { posix::sync(fd_, path_); }

void cut_torn_line(const fs::path& path) {
  constexpr int kFlags = O_RDWR | O_NOFOLLOW | O_CLOEXEC;
  const posix::Descriptor file(posix::retry([&] { return ::open(path.c_str(), kFlags); }));
  if (!file.is_open()) {
    if (errno == ENOENT) return;
    fail("open", path, errno);
  }
  std::array<char, 4096> block{};
  off_t end = ::lseek(file.get(), 0, SEEK_END);
  while (end > 0) {
    const off_t begin = std::max<off_t>(0, end - static_cast<off_t>(block.size()));
    const ssize_t got = ::pread(file.get(), block.data(), static_cast<size_t>(end - begin), begin);
    if (got != end - begin) fail("read", path, got < 0 ? errno : EIO);
    const std::string_view text(block.data(), static_cast<size_t>(got));
    const size_t newline = text.rfind('\n');
    end = newline == std::string_view::npos ? begin : begin + static_cast<off_t>(newline) + 1;
    if (newline != std::string_view::npos) break;
  }
  if (end < 0 || ::ftruncate(file.get(), end) != 0) fail("cut", path, errno);
}

}  // namespace kvsmith
