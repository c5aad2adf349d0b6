#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/files.h"
#include "core/text.h"
#include "data/hdf5.h"
#include "data/hdf5_library.h"

namespace kvsmith {
namespace {

constexpr hsize_t kMaxMembers = 64;
constexpr size_t kMaxName = 64;

[[noreturn]] void refuse(const std::string& what,
                         const std::string& where,
                         const std::string& remedy = "restore the file or build it anew") {
  throw Error(ExitCode::kBadData, {.what = what, .where = where, .remedy = remedy});
}

[[noreturn]] void refuse_damaged(const std::string& what, const std::string& where) {
  refuse(cat(what, " (HDF5: ", hdf5_reason(), ")"), where);
}

Hdf5Handle opened(hid_t id,
                  Hdf5Handle::Close close,
                  const std::string& what,
                  const std::string& where) {
  if (id < 0) refuse_damaged(what, where);
  return {id, close};
}

/// Reads what a strange or unfinished file can be told by, before the library opens it: the
/// superblock is signature (8 bytes), version, sizes of offsets and lengths, flags, then base,
/// extension and end-of-file addresses. Returns the size of the file.
uint64_t check_superblock(const std::filesystem::path& path) {
  const InputFile file(path);
  const uint64_t bytes = file.size();
  const std::string where = path.string(), foreign = "give a file made by `kvsmith data build`";
  std::array<unsigned char, 48> head{};
  if (file.read_some(0, head.data(), head.size()) != head.size() ||
      std::memcmp(head.data(), "\x89HDF\r\n\x1a\n", 8) != 0) {
    refuse(cat("not an HDF5 file (", bytes, " bytes)"), where, foreign);
  }
  if (head[8] != 3 || head[9] != 8 || head[10] != 8) {
    refuse(cat("HDF5 superblock version ", int{head[8]}, ", expected 3 with 8-byte addresses"),
           where, foreign);
  }
  if (head[11] != 0) refuse("its writer did not finish", where, "build the file anew");
  uint64_t end = 0;
  std::memcpy(&end, head.data() + 28, sizeof end);
  if (end != bytes) refuse(cat("has ", bytes, " bytes, its superblock says ", end), where);
  return bytes;
}

std::string dataset_fault(hid_t dataset, const Hdf5Layout& layout) {
  const Hdf5Handle creation(H5Dget_create_plist(dataset), H5Pclose);
  const Hdf5Handle type(H5Dget_type(dataset), H5Tclose);
  if (!creation.valid() || !type.valid()) return "unreadable properties";
  // The order matters: asking a virtual dataset for its extent would open other files.
  if (H5Pget_external_count(creation) != 0) return "data in another file (external storage)";
  if (H5Pget_layout(creation) != H5D_CHUNKED) return "a layout that is not chunked";

  const Hdf5Extent chunk(layout, layout.chunk_rows), most(layout, H5S_UNLIMITED);
  std::array<hsize_t, 2> size = {0, layout.columns}, limit = size;
  if (H5Pget_chunk(creation, 2, size.data()) != chunk.rank || size != chunk.size) {
    return cat("chunks of ", size[0], " rows, expected ", layout.chunk_rows);
  }
  unsigned options = 0;
  if (H5Pget_chunk_opts(creation, &options) < 0 || options != 0) return "chunk options";
  unsigned flags = 0, filter_config = 0;
  size_t values = 0;
  if (H5Pget_nfilters(creation) != 1 ||
      H5Pget_filter2(creation, 0, &flags, &values, nullptr, 0, nullptr, &filter_config) !=
          H5Z_FILTER_FLETCHER32) {
    return "filters other than exactly Fletcher32";
  }
  if (H5Tcommitted(type) != 0 || H5Tequal(type, hdf5_type(layout.type)) <= 0) {
    return cat("a type other than little-endian ", name_of(layout.type));
  }
  const Hdf5Handle space(H5Dget_space(dataset), H5Sclose);
  if (!space.valid() || H5Sget_simple_extent_ndims(space) != chunk.rank) {
    return cat("a rank other than ", chunk.rank);
  }
  H5Sget_simple_extent_dims(space, size.data(), limit.data());
  if (limit != most.size || size[1] != chunk.size[1]) return "other dimensions";
  return "";
}

std::variant<int64_t, std::string> attribute_value(hid_t attribute, const std::string& where) {
  const auto type = opened(H5Aget_type(attribute), H5Tclose, "unreadable type", where);
  const auto space = opened(H5Aget_space(attribute), H5Sclose, "unreadable shape", where);
  if (H5Sget_simple_extent_type(space) != H5S_SCALAR || H5Tcommitted(type) != 0) {
    refuse("not a single value", where);
  }
  if (H5Tequal(type, H5T_STD_I64LE) > 0) {
    int64_t number = 0;
    if (H5Aread(attribute, type, &number) < 0) refuse_damaged("cannot be read", where);
    return number;
  }
  const size_t bytes = H5Tget_size(type);
  if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) != 0 ||
      H5Tget_cset(type) != H5T_CSET_UTF8 || H5Tget_strpad(type) != H5T_STR_NULLPAD ||
      bytes > kMaxTextAttribute) {
    refuse("neither a 64-bit integer nor a short UTF-8 text", where);
  }
  std::string text(bytes, '\0');
  if (H5Aread(attribute, type, text.data()) < 0) refuse_damaged("cannot be read", where);
  if (text == std::string(1, '\0')) return std::string();
  if (text.find('\0') != std::string::npos) refuse("text holds NUL", where);
  return text;
}

}  // namespace

Hdf5File Hdf5File::open(const std::filesystem::path& path) {
  const uint64_t bytes = check_superblock(path);
  const Hdf5Lock lock;
  const std::string where = path.string();
  const auto access = opened(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "no property list", where);
  H5Pset_file_locking(access, false, true);  // file systems without locks; we never write in place
  auto handle = opened(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access), H5Fclose, "damaged", where);
  return {std::move(handle), path, bytes};
}

Hdf5Handle Hdf5File::open_object(const std::string& path, H5I_type_t type) const {
  auto object = opened(H5Gopen2(handle_, "/", H5P_DEFAULT), H5Oclose, "no root", where(""));
  for (size_t begin = 0; begin < path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string name = path.substr(begin, end - begin), here = where(path.substr(0, end));
    begin = end + 1;
    H5L_info_t link{};
    if (H5Lget_info(object, name.c_str(), &link, H5P_DEFAULT) < 0) refuse_damaged("missing", here);
    if (link.type != H5L_TYPE_HARD) refuse("a soft or external link", here);
    object = opened(H5Oopen(object, name.c_str(), H5P_DEFAULT), H5Oclose, "damaged", here);
    H5O_info_t info{};
    if (H5Oget_info2(object, &info, H5O_INFO_BASIC | H5O_INFO_NUM_ATTRS) < 0) {
      refuse_damaged("damaged", here);
    }
    if (info.rc != 1) refuse(cat("reached by ", info.rc, " links, expected 1"), here);
    if (info.num_attrs != 0) refuse("has attributes, expected none", here);
    if (H5Iget_type(object) != (begin < path.size() ? H5I_GROUP : type)) {
      refuse(type == H5I_GROUP ? "not a group" : "not a dataset", here);
    }
  }
  return object;
}

std::vector<std::string> Hdf5File::members(const std::string& group) const {
  const Hdf5Lock lock;
  const Hdf5Handle object = open_object(group, H5I_GROUP);
  H5G_info_t info{};
  if (H5Gget_info(object, &info) < 0) refuse_damaged("damaged", where(group));
  if (info.nlinks > kMaxMembers) refuse(cat("has ", info.nlinks, " members"), where(group));
  std::vector<std::string> names;
  for (hsize_t i = 0; i < info.nlinks; ++i) {
    std::array<char, kMaxName + 1> name{};
    const ssize_t length = H5Lget_name_by_idx(object, ".", H5_INDEX_NAME, H5_ITER_INC, i,
                                              name.data(), name.size(), H5P_DEFAULT);
    if (length < 0) refuse_damaged("unreadable member", where(group));
    if (length > static_cast<ssize_t>(kMaxName))
      refuse("a member's name is too long", where(group));
    names.emplace_back(name.data());
  }
  return names;
}

Hdf5Dataset Hdf5File::open_dataset(const std::string& path, const Hdf5Layout& layout) const {
  const Hdf5Lock lock;
  const std::string here = where(path);
  Hdf5Handle dataset = open_object(path, H5I_DATASET);
  if (const std::string fault = dataset_fault(dataset, layout); !fault.empty()) {
    refuse(cat("has ", fault), here, "give a file made by `kvsmith data build`");
  }
  std::array<hsize_t, 2> size{};
  const auto space = opened(H5Dget_space(dataset), H5Sclose, "damaged", here);
  H5Sget_simple_extent_dims(space, size.data(), nullptr);
  // Stored sizes bound the extent, so that no header can make a reader allocate more than the file.
  const uint64_t rows = size[0], chunk_bytes = layout.chunk_rows * layout.row_bytes() + 4;
  const uint64_t stored = H5Dget_storage_size(dataset);
  if (stored > bytes_ || layout.chunks(rows) != stored / chunk_bytes || stored % chunk_bytes != 0) {
    refuse(cat("declares ", rows, " rows in ", layout.chunks(rows), " chunks of ", chunk_bytes,
               " bytes, but stores ", stored, " bytes"),
           here);
  }
  // Callers cache checked chunks; a second cache in the library would only cost memory.
  const auto access = opened(H5Pcreate(H5P_DATASET_ACCESS), H5Pclose, "no property list", here);
  H5Pset_chunk_cache(access, 1, 0, 0);
  dataset = opened(H5Dopen2(handle_, path.c_str(), access), H5Dclose, "damaged", here);
  return {std::move(dataset), layout, rows, here};
}

Hdf5Attributes Hdf5File::attributes() const {
  const Hdf5Lock lock;
  const Hdf5Handle root = open_object("", H5I_GROUP);
  H5O_info_t info{};
  if (H5Oget_info2(root, &info, H5O_INFO_NUM_ATTRS) < 0) refuse_damaged("damaged", where(""));
  if (info.num_attrs > kMaxMembers) refuse(cat("has ", info.num_attrs, " attributes"), where(""));
  Hdf5Attributes attributes;
  for (hsize_t i = 0; i < info.num_attrs; ++i) {
    const auto attribute =
        opened(H5Aopen_by_idx(root, ".", H5_INDEX_NAME, H5_ITER_INC, i, H5P_DEFAULT, H5P_DEFAULT),
               H5Aclose, "unreadable attribute", where(""));
    std::array<char, kMaxName + 1> name{};
    const ssize_t length = H5Aget_name(attribute, name.size(), name.data());
    if (length < 0 || length > static_cast<ssize_t>(kMaxName)) {
      refuse("an attribute's name is unreadable or too long", where(""));
    }
    attributes[name.data()] = attribute_value(attribute, cat(where(""), "@", name.data()));
  }
  return attributes;
}

void Hdf5Dataset::read(uint64_t first, uint64_t rows, void* out) const {
  const Hdf5Lock lock;
  const Hdf5Extent count(layout_, rows);
  const std::array<hsize_t, 2> offset = {first, 0};
  const Hdf5Handle file(H5Dget_space(handle_), H5Sclose);
  const Hdf5Handle memory(H5Screate_simple(count.rank, count.size.data(), nullptr), H5Sclose);
  const bool done = file.valid() && memory.valid() &&
                    H5Sselect_hyperslab(file, H5S_SELECT_SET, offset.data(), nullptr,
                                        count.size.data(), nullptr) >= 0 &&
                    H5Dread(handle_, hdf5_type(layout_.type), memory, file, H5P_DEFAULT, out) >= 0;
  if (!done) {
    refuse_damaged(cat("rows ", first, " to ", first + rows - 1, " (chunk ",
                       first / layout_.chunk_rows, ") cannot be read"),
                   where_);
  }
}

}  // namespace kvsmith
