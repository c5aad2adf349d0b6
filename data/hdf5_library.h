#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <string>

#include "data/hdf5.h"

namespace kvsmith {

/// Held around every call into the library, which keeps global state.
class Hdf5Lock {
 public:
  Hdf5Lock();

 private:
  std::scoped_lock<std::recursive_mutex> lock_;
};

/// Why the last call failed, in the library's words: "Fletcher32 checksum mismatch".
std::string hdf5_reason();

hid_t hdf5_type(Hdf5Type type);

constexpr uint64_t kMaxTextAttribute = 4096;

/// Start, size and chunk of `rows` rows as HDF5 wants them; `rank` is 1 or 2.
struct Hdf5Extent {
  int rank;
  std::array<hsize_t, 2> size;

  Hdf5Extent(const Hdf5Layout& layout, uint64_t rows)
      : rank(layout.columns == 0 ? 1 : 2), size{rows, layout.columns} {}
};

}  // namespace kvsmith
