#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace kvsmith {

/// The one module that writes files. Nothing here leaves a half-written file under a final name:
/// content goes to a temporary name in the same directory, is synced, and is renamed into place;
/// the directory is synced after. Every system call is checked, EINTR and short writes are retried.
///
/// Output goes only to regular files and directories; a symbolic link or device under the final
/// name is refused. Directories must exist, except where said.
///
/// Errors: kMissingInput (66), kCannotCreate (73), kIo (74), kPermission (77), naming the path.

/// Refuses (73) when `path` exists and `force` is not set, or when nothing can be created beside
/// it. Call before long work starts.
void expect_writable(const std::filesystem::path& path, bool force);

/// Makes the directories above `path` that are not there yet.
void create_parents(const std::filesystem::path& path);

/// The whole file. Throws 66 when missing, 65 when larger than `limit` bytes.
std::string read_file(const std::filesystem::path& path, uint64_t limit = uint64_t{1} << 33);

/// A regular file (65 for anything else) held open for reading at any offset. Reads into the
/// caller's memory instead of mapping, so that a file cut short meanwhile is an Error, not a
/// SIGBUS. Safe to read from several threads.
class InputFile {
 public:
  explicit InputFile(std::filesystem::path path);
  ~InputFile();
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&& other) noexcept;

  const std::filesystem::path& path() const { return path_; }
  uint64_t size() const { return size_; }  ///< in bytes, when it was opened
  /// Fills `destination` from byte `offset` on. Throws 65 when the file ends before.
  void read(uint64_t offset, void* destination, size_t bytes) const;
  /// As read(), up to the end of the file; returns the number of bytes read.
  size_t read_some(uint64_t offset, void* destination, size_t bytes) const;

 private:
  std::filesystem::path path_;
  uint64_t size_ = 0;
  int fd_ = -1;
};

/// Replaces `path` by `content`, durably and atomically.
void write_file(const std::filesystem::path& path, std::string_view content);

/// A file written in pieces that appears under its name only when commit() returns. Hashes what it
/// writes. Without commit(), or after a failed write, the destructor removes the temporary file.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Sync, close, rename, sync the directory. Returns the SHA-256 of the content in hex.
  std::string commit();

  /// Where the content is until commit(): for libraries that insist on opening files themselves.
  /// Fill the file either there or by write(), not both.
  const std::filesystem::path& temporary() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Publishes a file that a library (HDF5, SentencePiece) wrote at `temporary`: sync, rename to
/// `path`, sync the directory.
void publish_file(const std::filesystem::path& temporary, const std::filesystem::path& path);

/// A directory that appears under its name only when commit() returns. Fill `path()` with files
/// made by AtomicFile or write_file; commit() syncs all of it, exchanges it with a directory of the
/// final name if there is one, and syncs the parent: at every moment the final name is the old
/// directory or the new one. (File systems that cannot exchange names have a moment in between with
/// neither; after a crash right there sweep_temporaries() brings the old one back.) Without
/// commit() the destructor removes it.
class AtomicDirectory {
 public:
  explicit AtomicDirectory(std::filesystem::path final_path);
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  const std::filesystem::path& path() const { return temporary_; }
  void commit();

 private:
  std::filesystem::path final_, temporary_;
  bool committed_ = false;
};

/// Makes `link` a symbolic link to `target` (relative to the link's directory), atomically.
void replace_link(const std::filesystem::path& link, const std::filesystem::path& target);

/// Renames `path` to a trash name in the same directory, syncs, then deletes: a reader never sees
/// it half deleted. Nothing happens when it is not there.
void remove_durably(const std::filesystem::path& path);
/// Deletes what interrupted AtomicFile, AtomicDirectory and remove_durably left in `directory`:
/// names of their pattern whose process is no longer there. Processes of other machines and
/// containers cannot be seen: hold the DirectoryLock when several share the directory.
void sweep_temporaries(const std::filesystem::path& directory);
/// The same without a lock: of what nobody has written to for an hour; with `name` what was made
/// for the file or directory of that name only.
void sweep_abandoned(const std::filesystem::path& directory, const std::string& name = "");

/// An append-only file, one write(2) per append(), so that lines of several writers do not mix.
/// What a failed append() wrote is taken back.
class AppendFile {
 public:
  explicit AppendFile(std::filesystem::path path);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  void append(std::string_view bytes);
  void sync();

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

/// Free bytes of the file system that holds `path` (or its nearest existing parent).
uint64_t free_bytes(const std::filesystem::path& path);

/// Holds `directory/LOCK` for its lifetime, so that two runs never write one directory. Throws 73
/// naming the holder ("locked by pid 4711 on node07 since ..."), or when the file system has no
/// locks. The lock dies with the process and the children it forked.
class DirectoryLock {
 public:
  explicit DirectoryLock(const std::filesystem::path& directory);
  ~DirectoryLock();
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  int fd_ = -1;
};

}  // namespace kvsmith
