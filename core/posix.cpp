#include "core/posix.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <system_error>

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith::posix {

namespace fs = std::filesystem;

void fail(std::string_view what, const fs::path& where, int error) {
  ExitCode code = ExitCode::kIo;
  std::string remedy;
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      remedy = "free some space or choose another file system";
      break;
    case EFBIG:
      remedy = "raise the limit of the file size (ulimit -f)";
      break;
    case EACCES:
    case EPERM:
    case EROFS:
      code = ExitCode::kPermission;
      remedy = "check owner and mode, or choose another place";
      break;
    case EEXIST:
    case EISDIR:
    case ELOOP:
    case ENAMETOOLONG:
    case ENOTDIR:
    case ENOTEMPTY:
      code = ExitCode::kCannotCreate;
      remedy = "choose another name, or remove what is in the way";
      break;
    default:
      break;
  }
  throw Error(code, {.what = cat("cannot ", what, ": ", std::generic_category().message(error)),
                     .where = where.string(),
                     .remedy = remedy});
}

void Descriptor::close(const fs::path& path) {
  // Interrupted means closed on Linux; a second close could hit a descriptor of another thread.
  if (::close(release()) != 0 && errno != EINTR) fail("close", path, errno);
}

void write_all(int fd, std::string_view bytes, const fs::path& path, size_t& done) {
  for (done = 0; done < bytes.size();) {
    const ssize_t now =
        retry([&] { return ::write(fd, bytes.data() + done, bytes.size() - done); });
    if (now <= 0) fail("write", path, now == 0 ? EIO : errno);
    done += static_cast<size_t>(now);
  }
}

void sync(int fd, const fs::path& path) {
  if (retry([&] { return ::fsync(fd); }) != 0) fail("sync", path, errno);
}

void sync_directory(int fd, const fs::path& path) {
  // Some network file systems have nothing to sync in a directory, and say EINVAL.
  if (retry([&] { return ::fsync(fd); }) != 0 && errno != EINVAL) fail("sync", path, errno);
}

Place::Place(fs::path wanted) : path(std::move(wanted)) {
  if (!path.has_filename()) path = path.parent_path();
  name = path.filename();
  if (name.empty() || name == "." || name == "..") fail("write", path, EISDIR);
  directory = path.has_parent_path() ? path.parent_path() : ".";
  fd = Descriptor(retry([&] { return ::open(directory.c_str(), O_DIRECTORY | O_CLOEXEC); }));
  if (fd.is_open()) return;
  if (errno != ENOENT) fail("open the directory", directory, errno);
  throw Error(ExitCode::kCannotCreate, {.what = "the directory is not there",
                                        .where = directory.string(),
                                        .remedy = "create it first"});
}

mode_t Place::type() const {
  struct stat info{};
  if (::fstatat(fd.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0) {
    return info.st_mode & S_IFMT;
  }
  if (errno != ENOENT) fail("look at", path, errno);
  return 0;
}

void Place::expect_nothing_but(mode_t wanted) const {
  const mode_t there = type();
  if (there == 0 || there == wanted) return;
  const char* const found = there == S_IFDIR   ? "directory"
                            : there == S_IFLNK ? "symbolic link"
                            : there == S_IFREG ? "regular file"
                                               : "device, pipe or socket";
  throw Error(
      ExitCode::kCannotCreate,
      {.what = cat("is a ", found, ", not a ", wanted == S_IFDIR ? "directory" : "regular file"),
       .where = path.string(),
       .remedy = "choose another name, or remove it"});
}

Descriptor Place::open(int flags) const {
  const int all = flags | O_NOFOLLOW | O_CLOEXEC;
  Descriptor file(retry([&] { return ::openat(fd.get(), name.c_str(), all, 0666); }));
  if (!file.is_open()) fail("open", path, errno);
  return file;
}

uint64_t start_of(uint64_t pid) {
  std::ifstream file(cat("/proc/", pid, "/stat"));
  std::string line;
  std::getline(file, line);
  // The second field is the program's name, which may hold anything; field 22 is the start.
  std::istringstream rest(line.substr(std::min(line.size(), line.rfind(')') + 1)));
  std::string field;
  for (int i = 3; i <= 22; ++i) rest >> field;
  return rest ? std::stoull(field) : 0;
}

std::string temporary_name(const std::string& name, std::string_view kind) {
  uint64_t nonce = 0;
  if (retry([&] { return ::getrandom(&nonce, sizeof nonce, 0); }) < 0) {
    fail("draw a random name", name, errno);
  }
  const auto pid = static_cast<uint64_t>(::getpid());
  return cat(".", name, ".", kind, "-", pid, "-", start_of(pid), "-", nonce);
}

}  // namespace kvsmith::posix
