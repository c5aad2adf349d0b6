#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <hdf5.h>

namespace kvsmith {

/// An HDF5 identifier that closes itself.
class Hdf5Handle {
 public:
  using Close = herr_t (*)(hid_t);

  Hdf5Handle() = default;
  Hdf5Handle(hid_t id, Close closer) : id_(id), close_(closer) {}
  Hdf5Handle(Hdf5Handle&& other) noexcept
      : id_(std::exchange(other.id_, H5I_INVALID_HID)), close_(other.close_) {}
  Hdf5Handle& operator=(Hdf5Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  ~Hdf5Handle() { close(); }

  operator hid_t() const { return id_; }
  bool valid() const { return id_ >= 0; }
  /// False when the library reports a failure; the handle is invalid afterwards either way.
  bool close() noexcept;

 private:
  hid_t id_ = H5I_INVALID_HID;
  Close close_ = nullptr;
};

enum class Hdf5Type { kUint8, kUint16, kUint32, kUint64 };  ///< always little endian in the file

uint64_t size_of(Hdf5Type type);
std::string name_of(Hdf5Type type);

/// The only kind of dataset read or written here: rows of `columns` integers (0: a plain list),
/// extensible, in chunks of `chunk_rows` rows, each with a Fletcher32 checksum.
struct Hdf5Layout {
  Hdf5Type type = Hdf5Type::kUint8;
  uint64_t chunk_rows = 0;
  uint64_t columns = 0;

  uint64_t row_bytes() const { return size_of(type) * (columns == 0 ? 1 : columns); }
  uint64_t chunks(uint64_t rows) const { return rows / chunk_rows + (rows % chunk_rows != 0); }
};

class Hdf5Dataset {
 public:
  uint64_t rows() const { return rows_; }
  /// Throws Error (74) when the library reports a failure.
  void append(const void* data, uint64_t rows);
  /// Throws Error (65) when the rows cannot be read or fail their Fletcher32 checksum.
  void read(uint64_t first, uint64_t rows, void* out) const;
  /// Throws Error (74).
  void close();

 private:
  friend class Hdf5File;
  Hdf5Dataset(Hdf5Handle handle, const Hdf5Layout& layout, uint64_t rows, std::string where)
      : handle_(std::move(handle)), layout_(layout), rows_(rows), where_(std::move(where)) {}

  Hdf5Handle handle_;
  Hdf5Layout layout_;
  uint64_t rows_;
  std::string where_;
};

using Hdf5Attributes = std::map<std::string, std::variant<int64_t, std::string>>;

/// A narrow, strict subset of HDF5: groups, datasets of Hdf5Layout, and integers and short texts
/// as attributes of the root. Version 1.10 format throughout, so that all metadata is checksummed,
/// and no times, so that equal content gives equal bytes. A file with anything else in it is
/// refused before its data is touched.
///
/// The library may be built without thread safety: every use takes one process-wide lock.
class Hdf5File {
 public:
  /// Replaces what is at `path`. Throws Error (74).
  static Hdf5File create(const std::filesystem::path& path);
  void create_group(const std::string& name);
  Hdf5Dataset create_dataset(const std::string& path, const Hdf5Layout& layout);
  /// Texts of at most 4,096 bytes without NUL.
  void set_attributes(const Hdf5Attributes& attributes);
  /// Throws Error (74). Close the datasets first.
  void close();

  /// Read-only. Throws Error: 66 missing, 77 not allowed, 65 not a complete file of this kind.
  static Hdf5File open(const std::filesystem::path& path);
  /// Names in a group ("" is the root), sorted. Throws Error (65), as all that follow.
  std::vector<std::string> members(const std::string& group) const;
  Hdf5Dataset open_dataset(const std::string& path, const Hdf5Layout& layout) const;
  Hdf5Attributes attributes() const;

  /// "<file>: /<path>", for errors.
  std::string where(const std::string& path) const;

 private:
  Hdf5File(Hdf5Handle handle, std::filesystem::path path, uint64_t bytes)
      : handle_(std::move(handle)), path_(std::move(path)), bytes_(bytes) {}
  Hdf5Handle open_object(const std::string& path, H5I_type_t type) const;

  Hdf5Handle handle_;
  std::filesystem::path path_;
  uint64_t bytes_;
};

}  // namespace kvsmith
