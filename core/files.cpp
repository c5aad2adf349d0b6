#include "core/files.h"

#include <algorithm>
#include <chrono>
#include <regex>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/error.h"
#include "core/hash.h"
#include "core/posix.h"
#include "core/text.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;
using posix::Descriptor;
using posix::fail;
using posix::Place;
using posix::retry;
using posix::sync;
using posix::sync_directory;
using posix::temporary_name;

Descriptor create_temporary(const Place& place, const std::string& name) {
  constexpr int kFlags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  Descriptor file(retry([&] { return ::openat(place.fd.get(), name.c_str(), kFlags, 0666); }));
  if (!file.is_open()) fail("create a file beside it", place.path, errno);
  return file;
}

Descriptor open_to_sync(const fs::path& path) {
  constexpr int kFlags = O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
  Descriptor file(retry([&] { return ::open(path.c_str(), kFlags); }));
  if (!file.is_open()) fail("open", path, errno);
  return file;
}

void rename_in(const Place& place, const std::string& from, const std::string& to) {
  if (::renameat(place.fd.get(), from.c_str(), place.fd.get(), to.c_str()) != 0) {
    fail("rename to " + to, place.directory / from, errno);
  }
}

/// Puts the directory `fresh` under the name of `place`. Returns the name that the directory which
/// was there has now, or "" when there was none.
std::string rename_directory(const Place& place, const std::string& fresh) {
  const int fd = place.fd.get();
  // A plain rename replaces nothing but an empty directory.
  if (::renameat(fd, fresh.c_str(), fd, place.name.c_str()) == 0) return "";
  if (errno != ENOTEMPTY && errno != EEXIST) fail("create", place.path, errno);
  if (::renameat2(fd, fresh.c_str(), fd, place.name.c_str(), RENAME_EXCHANGE) == 0) return fresh;
  if (errno != EINVAL && errno != ENOSYS) fail("replace", place.path, errno);
  const std::string old = temporary_name(place.name, "old");
  rename_in(place, place.name, old);
  try {
    rename_in(place, fresh, place.name);
  } catch (const Error&) {
    rename_in(place, old, place.name);
    throw;
  }
  return old;
}

/// Files made by libraries are not synced yet, and directories inside directories never are.
void sync_tree(const fs::path& directory) {
  std::error_code error;
  fs::directory_iterator at(directory, error);
  for (; !error && at != fs::directory_iterator(); at.increment(error)) {
    if (at->symlink_status(error).type() == fs::file_type::directory) {
      sync_tree(at->path());
    } else {
      sync(open_to_sync(at->path()).get(), at->path());
    }
  }
  if (error) fail("list", directory, error.value());
  sync_directory(open_to_sync(directory).get(), directory);
}

/// When something at `path`, or in the directory that it is, was written last.
fs::file_time_type last_write(const fs::path& path) {
  std::error_code gone;
  auto last = fs::last_write_time(path, gone);
  fs::directory_iterator at(path, gone);
  for (; !gone && at != fs::directory_iterator(); at.increment(gone))
    last = std::max(last, fs::last_write_time(at->path(), gone));
  return last;
}

/// Of temporaries for `of` (empty: for any name) whose process is not there, those that have not
/// been written to for `idle`.
void sweep(const fs::path& directory, const std::string& of, fs::file_time_type::duration idle) {
  static const std::regex kPattern(R"(\.(.+)\.(tmp|old)-(\d{1,19})-(\d{1,19})-\d{1,20})");
  std::error_code error;
  std::vector<std::string> names;
  fs::directory_iterator at(directory, error);
  for (; !error && at != fs::directory_iterator(); at.increment(error)) {
    names.push_back(at->path().filename());
  }
  if (error == std::errc::no_such_file_or_directory) return;
  if (error) fail("list", directory, error.value());
  for (const std::string& name : names) {
    std::smatch part;
    if (!std::regex_match(name, part, kPattern)) continue;
    if (!of.empty() && part[1] != of) continue;
    const uint64_t start = posix::start_of(std::stoull(part[3]));
    if (start != 0 && start == std::stoull(part[4])) continue;
    // with a lock times do not matter: a clock of another machine may be ahead
    if (idle.count() > 0 && fs::file_time_type::clock::now() - last_write(directory / name) < idle)
      continue;
    const fs::path final_path = directory / part[1].str();
    const bool missing = fs::symlink_status(final_path, error).type() == fs::file_type::not_found;
    if (part[2] == "old" && missing) {
      const Place place(final_path);
      rename_in(place, name, place.name);
      sync_directory(place.fd.get(), place.directory);
      continue;
    }
    fs::remove_all(directory / name, error);
    if (error) fail("delete", directory / name, error.value());
  }
}

}  // namespace

void expect_writable(const fs::path& path, bool force) {
  const Place place(path);
  if (place.type() != 0 && !force) {
    throw Error(ExitCode::kCannotCreate, {.what = "exists already",
                                          .where = place.path.string(),
                                          .remedy = "pass --force to replace it"});
  }
  sweep_abandoned(place.directory, place.name);
  const std::string probe = temporary_name(place.name, "tmp");
  create_temporary(place, probe);
  if (::unlinkat(place.fd.get(), probe.c_str(), 0) != 0) fail("remove", place.path, errno);
}

void create_parents(const fs::path& path) {
  const fs::path parent = (path.has_filename() ? path : path.parent_path()).parent_path();
  std::error_code error;
  if (!parent.empty()) fs::create_directories(parent, error);
  if (error) fail("create the directory", parent, error.value());
}

void write_file(const fs::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

struct AtomicFile::Impl {
  explicit Impl(fs::path path)
      : place(std::move(path)),
        name(temporary_name(place.name, "tmp")),
        temporary(place.directory / name) {
    place.expect_nothing_but(S_IFREG);
    file = create_temporary(place, name);
  }
  ~Impl() {
    if (!published) ::unlinkat(place.fd.get(), name.c_str(), 0);
  }

  Descriptor take() {
    if (file.is_open()) return std::move(file);
    throw Error(ExitCode::kInternal, {.what = "used after a failed write or after commit",
                                      .where = place.path.string(),
                                      .remedy = "this is a bug; please report it"});
  }

  Place place;
  std::string name;
  fs::path temporary;
  Descriptor file;
  Sha256 hash;
  bool written = false, published = false;
};

AtomicFile::AtomicFile(fs::path path) : impl_(std::make_unique<Impl>(std::move(path))) {}
AtomicFile::~AtomicFile() = default;

const fs::path& AtomicFile::temporary() const { return impl_->temporary; }

void AtomicFile::write(const void* data, size_t bytes) {
  // Closed for good when the write fails: how much of it arrived is unknown.
  Descriptor file = impl_->take();
  size_t done = 0;
  posix::write_all(file.get(), {static_cast<const char*>(data), bytes}, impl_->place.path, done);
  impl_->hash.update(data, bytes);
  impl_->written = true;
  impl_->file = std::move(file);
}

std::string AtomicFile::commit() {
  Impl& self = *impl_;
  Descriptor file = self.take();
  // A library may have replaced the file under the temporary name.
  if (!self.written) file = open_to_sync(self.temporary);
  const std::string hash = self.written ? self.hash.hex() : sha256_of_file(self.temporary);
  sync(file.get(), self.place.path);
  file.close(self.place.path);
  rename_in(self.place, self.name, self.place.name);
  self.published = true;
  sync_directory(self.place.fd.get(), self.place.directory);
  return hash;
}

void publish_file(const fs::path& temporary, const fs::path& path) {
  const Place place(path);
  place.expect_nothing_but(S_IFREG);
  sync(open_to_sync(temporary).get(), temporary);
  if (::renameat(AT_FDCWD, temporary.c_str(), place.fd.get(), place.name.c_str()) != 0) {
    fail(cat("rename to ", place.path.string()), temporary, errno);
  }
  sync_directory(place.fd.get(), place.directory);
}

AtomicDirectory::AtomicDirectory(fs::path final_path) : final_(std::move(final_path)) {
  const Place place(final_);
  place.expect_nothing_but(S_IFDIR);
  final_ = place.path;
  const std::string name = temporary_name(place.name, "tmp");
  temporary_ = place.directory / name;
  if (::mkdirat(place.fd.get(), name.c_str(), 0777) != 0) fail("create", final_, errno);
}

AtomicDirectory::~AtomicDirectory() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(temporary_, ignored);
}

void AtomicDirectory::commit() {
  const Place place(final_);
  sync_tree(temporary_);
  place.expect_nothing_but(S_IFDIR);
  const std::string old = rename_directory(place, temporary_.filename());
  committed_ = true;
  sync_directory(place.fd.get(), place.directory);
  // The new directory is published; what cannot be deleted now, sweep_temporaries() will find.
  std::error_code ignored;
  if (!old.empty()) fs::remove_all(place.directory / old, ignored);
}

void remove_durably(const fs::path& path) {
  std::error_code error;
  if (fs::symlink_status(path, error).type() == fs::file_type::not_found) return;
  const Place place(path);
  const std::string trash = temporary_name(place.name, "tmp");
  rename_in(place, place.name, trash);
  sync_directory(place.fd.get(), place.directory);
  fs::remove_all(place.directory / trash, error);
  if (error) fail("delete", place.directory / trash, error.value());
}

void sweep_temporaries(const fs::path& directory) { sweep(directory, "", {}); }

void sweep_abandoned(const fs::path& directory, const std::string& name) {
  sweep(directory, name, std::chrono::hours(1));
}

uint64_t free_bytes(const fs::path& path) {
  std::error_code error;
  fs::path place = fs::absolute(path, error);
  struct statvfs info{};
  while (::statvfs(place.c_str(), &info) != 0) {
    if ((errno != ENOENT && errno != ENOTDIR) || place == place.parent_path()) {
      fail("measure the free space", path, errno);
    }
    place = place.parent_path();
  }
  return uint64_t{info.f_bavail} * info.f_frsize;
}

}  // namespace kvsmith
