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

}  // namespace kvsmith
