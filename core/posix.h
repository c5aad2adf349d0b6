#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include <sys/types.h>
#include <unistd.h>

namespace kvsmith::posix {

/// System calls with their errors turned into Error; what core/files.h is made of.

/// Throws what errno value `error` means to the user: "<where>: cannot <what>: <reason>".
[[noreturn]] void fail(std::string_view what, const std::filesystem::path& where, int error);

/// The result of `call`, repeated while a signal interrupts it.
template <class Call>
auto retry(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

/// Owns a file descriptor, or none (-1).
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(Descriptor&& other) noexcept : fd_(other.release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }

  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }
  bool is_open() const { return fd_ >= 0; }
  /// Closes it, with errors that a network file system may only tell now.
  void close(const std::filesystem::path& path);

 private:
  int fd_;
};

/// Writes all of `bytes`; `done` counts what has been written, also when it throws.
void write_all(int fd, std::string_view bytes, const std::filesystem::path& path, size_t& done);
/// fsync, never tried twice: after a failure the kernel may have dropped the pages and say "done".
void sync(int fd, const std::filesystem::path& path);
void sync_directory(int fd, const std::filesystem::path& path);

/// A name in an open directory: what belongs together stays in that directory even when somebody
/// renames or replaces its path meanwhile. Throws 73 when the directory is not there.
struct Place {
  explicit Place(std::filesystem::path wanted);

  /// Type bits (S_IFREG ...) of what is there now, 0 when nothing is. Links are not followed.
  mode_t type() const;
  /// Throws 73 when something else than type `wanted` (S_IFREG or S_IFDIR) is there.
  void expect_nothing_but(mode_t wanted) const;
  /// open() of the name with O_NOFOLLOW | O_CLOEXEC and, for new files, mode 0666.
  Descriptor open(int flags) const;

  std::filesystem::path path, directory;
  std::string name;
  Descriptor fd;  ///< of `directory`
};

/// When process `pid` started, in clock ticks since boot; 0 when there is none.
uint64_t start_of(uint64_t pid);

/// ".<name>.<kind>-<pid>-<start of the process>-<nonce>", which sweep_temporaries() knows. The pid
/// alone could be of another process by now; in containers it often is.
std::string temporary_name(const std::string& name, std::string_view kind);

}  // namespace kvsmith::posix
