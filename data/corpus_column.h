#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "data/corpus_schema.h"
#include "data/hdf5.h"

namespace kvsmith {

/// A dataset X with the chunk hashes of X_xxh3 beside it. Hands out whole chunks whose hash was
/// checked, through a cache of the chunks used last. Safe to call from several threads.
class CorpusColumn {
 public:
  using Chunk = std::shared_ptr<const std::vector<std::byte>>;
  /// Looks at the content of a chunk that begins at row `first`; throws Error to refuse it.
  using Check = std::function<void(uint64_t first, std::span<const std::byte> rows)>;

  CorpusColumn(const Hdf5File& file,
               const std::string& path,
               const Hdf5Layout& layout,
               uint64_t cache_bytes,
               Check check = {});

  uint64_t rows() const { return data_.rows(); }
  uint64_t chunk_rows() const { return layout_.chunk_rows; }
  uint64_t chunks() const { return hashes_.size(); }
  /// Chunk `index`, from the cache or the file. Throws Error (65) naming dataset and chunk.
  Chunk chunk(uint64_t index) const;
  /// As chunk(), but always from the file and past the cache.
  Chunk load(uint64_t index) const;
  /// Row `row` of a uint64 column.
  uint64_t at(uint64_t row) const;

  ColumnDigest digest() const { return {path_, layout_.type, rows(), hashes_}; }
  const std::string& where() const { return where_; }

 private:
  std::string path_, where_;
  Hdf5Layout layout_;
  Hdf5Dataset data_;
  ChunkHashes hashes_;
  Check check_;

  using Recent = std::list<std::pair<uint64_t, Chunk>>;
  size_t cached_chunks_;
  mutable std::mutex mutex_;
  mutable Recent recent_;  // most recent first
  mutable std::unordered_map<uint64_t, Recent::iterator> cached_;
};

/// The rows of a chunk as what they are.
template <class T>
std::span<const T> rows_as(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
}

}  // namespace kvsmith
