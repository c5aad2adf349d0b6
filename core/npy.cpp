#include "core/npy.h"

#include <bit>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

static_assert(std::endian::native == std::endian::little, "values are written as they are");

/// Magic, version, length of the dictionary, dictionary; padded so that the data starts at a
/// multiple of 64 bytes.
std::string header_of(uint64_t rows, uint64_t columns) {
  constexpr size_t kPrefix = 10, kAlignment = 64;
  std::string fields =
      cat("{'descr': '<f4', 'fortran_order': False, 'shape': (", rows, ", ", columns, "), }");
  const size_t used = kPrefix + fields.size() + 1;
  fields += std::string((kAlignment - used % kAlignment) % kAlignment, ' ') + '\n';
  const auto length = static_cast<uint16_t>(fields.size());
  return std::string("\x93NUMPY\x01\x00", 8) + static_cast<char>(length & 0xff) +
         static_cast<char>(length >> 8) + fields;
}

}  // namespace

NpyWriter::NpyWriter(const std::filesystem::path& path, uint64_t rows, uint64_t columns)
    : file_(path), where_(path.string()), columns_(columns), missing_(rows * columns) {
  file_.write(header_of(rows, columns));
}

void NpyWriter::write(std::span<const float> values) {
  if (values.size() > missing_ || (columns_ != 0 && values.size() % columns_ != 0)) {
    throw Error(ExitCode::kInternal,
                {.what = cat(values.size(), " values are not whole rows of ", columns_,
                             ", or more than the ", missing_, " still missing"),
                 .where = where_,
                 .remedy = "this is a bug; please report it"});
  }
  file_.write(values.data(), values.size_bytes());
  missing_ -= values.size();
}

std::string NpyWriter::commit() {
  if (missing_ == 0) return file_.commit();
  throw Error(ExitCode::kInternal, {.what = cat(missing_, " values are missing"),
                                    .where = where_,
                                    .remedy = "this is a bug; please report it"});
}

}  // namespace kvsmith
