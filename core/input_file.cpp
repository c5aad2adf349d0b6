#include <algorithm>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>

#include "core/error.h"
#include "core/files.h"
#include "core/posix.h"
#include "core/text.h"

namespace kvsmith {

namespace fs = std::filesystem;
using posix::fail;

InputFile::InputFile(fs::path path) : path_(std::move(path)) {
  // O_NONBLOCK: opening a pipe must not wait for its writer.
  constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;
  posix::Descriptor file(posix::retry([&] { return ::open(path_.c_str(), kFlags); }));
  if (!file.is_open()) {
    if (errno != ENOENT && errno != ENOTDIR) fail("read", path_, errno);
    throw Error(ExitCode::kMissingInput,
                {.what = "no such file", .where = path_.string(), .remedy = "check the name"});
  }
  struct stat info{};
  if (::fstat(file.get(), &info) != 0) fail("look at", path_, errno);
  if (!S_ISREG(info.st_mode)) {
    throw Error(
        ExitCode::kBadData,
        {.what = "is not a regular file", .where = path_.string(), .remedy = "name a file"});
  }
  size_ = static_cast<uint64_t>(info.st_size);
  fd_ = file.release();
}

InputFile::~InputFile() {
  if (fd_ >= 0) ::close(fd_);
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)), size_(other.size_), fd_(std::exchange(other.fd_, -1)) {}

InputFile& InputFile::operator=(InputFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(size_, other.size_);
  std::swap(fd_, other.fd_);
  return *this;
}

size_t InputFile::read_some(uint64_t offset, void* destination, size_t bytes) const {
  size_t done = 0;
  while (done < bytes) {
    const ssize_t got = posix::retry([&] {
      return ::pread(fd_, static_cast<char*>(destination) + done, bytes - done,
                     static_cast<off_t>(offset + done));
    });
    if (got < 0) fail("read", path_, errno);
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return done;
}

void InputFile::read(uint64_t offset, void* destination, size_t bytes) const {
  const size_t got = read_some(offset, destination, bytes);
  if (got == bytes) return;
  throw Error(ExitCode::kBadData, {.what = cat("ends after ", offset + got, " bytes where ", bytes,
                                               " bytes were expected from byte ", offset, " on"),
                                   .where = path_.string(),
                                   .remedy = "the file is cut short; copy or make it again"});
}

std::string read_file(const fs::path& path, uint64_t limit) {
  const InputFile file(path);
  std::string content(std::min(file.size(), limit) + 1, '\0');
  size_t size = 0;
  // Until the end, not up to size(): files of /proc say 0, others may be growing.
  while (const size_t got = file.read_some(size, content.data() + size, content.size() - size)) {
    size += got;
    if (size > limit) {
      throw Error(ExitCode::kBadData,
                  {.what = cat("is larger than the ", limit, " bytes allowed here"),
                   .where = path.string(),
                   .remedy = "check that it is the right file"});
    }
    if (size == content.size()) content.resize(2 * size);
  }
  content.resize(size);
  return content;
}

}  // namespace kvsmith
