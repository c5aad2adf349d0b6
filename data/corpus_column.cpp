#include "data/corpus_column.h"

#include <algorithm>

#include "core/error.h"
#include "core/hash.h"
#include "core/text.h"

namespace kvsmith {
namespace {

ChunkHashes read_hashes(const Hdf5File& file, const std::string& path, uint64_t chunks) {
  const Hdf5Dataset stored = file.open_dataset(path, kHashLayout);
  if (stored.rows() != chunks) {
    throw Error(ExitCode::kBadData,
                {.what = cat("has ", stored.rows(), " hashes for ", chunks, " chunks"),
                 .where = file.where(path),
                 .remedy = "restore the file or build it anew"});
  }
  ChunkHashes hashes(chunks);
  if (chunks > 0) stored.read(0, chunks, hashes.data());
  return hashes;
}

}  // namespace

CorpusColumn::CorpusColumn(const Hdf5File& file,
                           const std::string& path,
                           const Hdf5Layout& layout,
                           uint64_t cache_bytes,
                           Check check)
    : path_(path),
      where_(file.where(path)),
      layout_(layout),
      data_(file.open_dataset(path, layout)),
      hashes_(read_hashes(file, path + kHashSuffix, layout.chunks(data_.rows()))),
      check_(std::move(check)),
      cached_chunks_(
          std::max<uint64_t>(1, cache_bytes / (layout.chunk_rows * layout.row_bytes()))) {}

CorpusColumn::Chunk CorpusColumn::load(uint64_t index) const {
  const uint64_t first = index * layout_.chunk_rows;
  const uint64_t count = std::min(layout_.chunk_rows, rows() - first);
  std::vector<std::byte> bytes(count * layout_.row_bytes());
  data_.read(first, count, bytes.data());
  if (xxh3_128(bytes.data(), bytes.size()) != hashes_[index]) {
    throw Error(ExitCode::kBadData, {.what = cat("chunk ", index, " (rows ", first, " to ",
                                                 first + count - 1, ") fails its XXH3 checksum"),
                                     .where = where_,
                                     .remedy = "restore the file or build it anew"});
  }
  if (check_) check_(first, bytes);
  return std::make_shared<const std::vector<std::byte>>(std::move(bytes));
}

CorpusColumn::Chunk CorpusColumn::chunk(uint64_t index) const {
  const std::scoped_lock lock(mutex_);
  if (const auto found = cached_.find(index); found != cached_.end()) {
    recent_.splice(recent_.begin(), recent_, found->second);
    return recent_.front().second;
  }
  Chunk loaded = load(index);
  recent_.emplace_front(index, loaded);
  cached_[index] = recent_.begin();
  if (recent_.size() > cached_chunks_) {
    cached_.erase(recent_.back().first);
    recent_.pop_back();
  }
  return loaded;
}

uint64_t CorpusColumn::at(uint64_t row) const {
  const Chunk rows = chunk(row / layout_.chunk_rows);
  return rows_as<uint64_t>(*rows)[row % layout_.chunk_rows];
}

}  // namespace kvsmith
