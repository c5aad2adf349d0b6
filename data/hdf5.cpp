#include "data/hdf5.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/text.h"
#include "data/hdf5_library.h"

namespace kvsmith {
namespace {

std::recursive_mutex& library() {
  static auto& mutex = *new std::recursive_mutex;  // outlives every static handle
  static const bool prepared = [] {
    H5dont_atexit();  // handles close themselves; the library's exit handler can loop after errors
    H5PLset_loading_state(0);
    return true;
  }();
  static_cast<void>(prepared);
  return mutex;
}

herr_t keep_innermost(unsigned depth, const H5E_error2_t* entry, void* text) {
  if (depth == 0 && entry->desc != nullptr) *static_cast<std::string*>(text) = entry->desc;
  return 0;
}

[[noreturn]] void fail(const std::string& what, const std::string& where) {
  throw Error(ExitCode::kIo, {.what = cat("cannot ", what, " (HDF5: ", hdf5_reason(), ")"),
                              .where = where,
                              .remedy = "check free space and the disk"});
}

Hdf5Handle created(hid_t id,
                   Hdf5Handle::Close close,
                   const std::string& what,
                   const std::string& where) {
  if (id < 0) fail(what, where);
  return {id, close};
}

void expect(herr_t status, const std::string& what, const std::string& where) {
  if (status < 0) fail(what, where);
}

Hdf5Handle properties(hid_t kind) {
  return created(H5Pcreate(kind), H5Pclose, "prepare a property list", "HDF5");
}

}  // namespace

Hdf5Lock::Hdf5Lock() : lock_(library()) {
  // Where the library was built for threads, each has its own printing of errors to switch off.
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

std::string hdf5_reason() {
  std::string text;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, &text);
  H5Eclear2(H5E_DEFAULT);
  return text.empty() ? "no reason given" : text;
}

hid_t hdf5_type(Hdf5Type type) {
  switch (type) {
    case Hdf5Type::kUint8:
      return H5T_STD_U8LE;
    case Hdf5Type::kUint16:
      return H5T_STD_U16LE;
    case Hdf5Type::kUint32:
      return H5T_STD_U32LE;
    case Hdf5Type::kUint64:
      return H5T_STD_U64LE;
  }
  return H5I_INVALID_HID;
}

uint64_t size_of(Hdf5Type type) { return uint64_t{1} << static_cast<int>(type); }

std::string name_of(Hdf5Type type) { return cat("uint", 8 * size_of(type)); }

bool Hdf5Handle::close() noexcept {
  if (!valid()) return true;
  const Hdf5Lock lock;
  return close_(std::exchange(id_, H5I_INVALID_HID)) >= 0;
}

void Hdf5Dataset::append(const void* data, uint64_t rows) {
  const Hdf5Lock lock;
  const std::string what = "write";
  const Hdf5Extent start(layout_, rows_), count(layout_, rows), total(layout_, rows_ + rows);
  expect(H5Dset_extent(handle_, total.size.data()), what, where_);
  const std::array<hsize_t, 2> offset = {rows_, 0};
  const auto file = created(H5Dget_space(handle_), H5Sclose, what, where_);
  const auto memory =
      created(H5Screate_simple(count.rank, count.size.data(), nullptr), H5Sclose, what, where_);
  expect(
      H5Sselect_hyperslab(file, H5S_SELECT_SET, offset.data(), nullptr, count.size.data(), nullptr),
      what, where_);
  expect(H5Dwrite(handle_, hdf5_type(layout_.type), memory, file, H5P_DEFAULT, data), what, where_);
  rows_ += rows;
}

void Hdf5Dataset::close() {
  if (!handle_.close()) fail("close", where_);
}

Hdf5File Hdf5File::create(const std::filesystem::path& path) {
  const Hdf5Lock lock;
  const std::string what = "create the file";
  const auto creation = properties(H5P_FILE_CREATE), access = properties(H5P_FILE_ACCESS);
  const bool ready =
      H5Pset_obj_track_times(creation, false) >= 0 &&
      H5Pset_attr_phase_change(creation, 64, 0) >= 0 &&  // all in one checksummed header
      H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110) >= 0 &&
      H5Pset_file_locking(access, false, true) >= 0 &&
      H5Pset_fclose_degree(access, H5F_CLOSE_SEMI) >= 0;
  if (!ready) fail(what, path.string());
  auto handle = created(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation, access), H5Fclose, what,
                        path.string());
  return {std::move(handle), path, 0};
}

void Hdf5File::create_group(const std::string& name) {
  const Hdf5Lock lock;
  const auto creation = properties(H5P_GROUP_CREATE);
  expect(H5Pset_obj_track_times(creation, false), "create the group", where(name));
  created(H5Gcreate2(handle_, name.c_str(), H5P_DEFAULT, creation, H5P_DEFAULT), H5Gclose,
          "create the group", where(name));
}

Hdf5Dataset Hdf5File::create_dataset(const std::string& path, const Hdf5Layout& layout) {
  const Hdf5Lock lock;
  const std::string what = "create the dataset";
  const Hdf5Extent empty(layout, 0), chunk(layout, layout.chunk_rows), most(layout, H5S_UNLIMITED);
  const auto creation = properties(H5P_DATASET_CREATE);
  const bool ready =
      H5Pset_obj_track_times(creation, false) >= 0 &&
      H5Pset_chunk(creation, chunk.rank, chunk.size.data()) >= 0 &&
      H5Pset_fill_time(creation, H5D_FILL_TIME_ALLOC) >= 0 &&  // the last chunk's rest is zeros
      H5Pset_fletcher32(creation) >= 0;
  if (!ready) fail(what, where(path));
  const auto space = created(H5Screate_simple(empty.rank, empty.size.data(), most.size.data()),
                             H5Sclose, what, where(path));
  auto handle = created(H5Dcreate2(handle_, path.c_str(), hdf5_type(layout.type), space,
                                   H5P_DEFAULT, creation, H5P_DEFAULT),
                        H5Dclose, what, where(path));
  return {std::move(handle), layout, 0, where(path)};
}

void Hdf5File::set_attributes(const Hdf5Attributes& attributes) {
  const Hdf5Lock lock;
  const auto scalar = created(H5Screate(H5S_SCALAR), H5Sclose, "write attributes", where(""));
  const auto set = [&](const std::string& name, hid_t type, const void* value) {
    const std::string what = cat("write attribute ", name);
    auto attribute =
        created(H5Acreate2(handle_, name.c_str(), type, scalar, H5P_DEFAULT, H5P_DEFAULT), H5Aclose,
                what, where(""));
    expect(H5Awrite(attribute, type, value), what, where(""));
    if (!attribute.close()) fail(what, where(""));
  };
  for (const auto& [name, value] : attributes) {
    if (const auto* number = std::get_if<int64_t>(&value)) {
      set(name, H5T_STD_I64LE, number);
      continue;
    }
    const std::string& text = std::get<std::string>(value);
    if (text.size() > kMaxTextAttribute || text.find('\0') != std::string::npos) {
      throw Error(ExitCode::kBadData,
                  {.what = cat("attribute ", name, " has ", text.size(), " bytes or holds NUL"),
                   .where = where(""),
                   .remedy = cat("at most ", kMaxTextAttribute, " bytes of text")});
    }
    const auto type = created(H5Tcopy(H5T_C_S1), H5Tclose, "make a type", where(""));
    const bool ready = H5Tset_size(type, std::max<size_t>(text.size(), 1)) >= 0 &&
                       H5Tset_strpad(type, H5T_STR_NULLPAD) >= 0 &&
                       H5Tset_cset(type, H5T_CSET_UTF8) >= 0;
    if (!ready) fail("make a type", where(""));
    set(name, type, text.c_str());
  }
}

void Hdf5File::close() {
  if (!handle_.close()) fail("close", path_.string());
}

std::string Hdf5File::where(const std::string& path) const {
  return cat(path_.string(), ": /", path);
}

}  // namespace kvsmith
