#include "data/input_stream.h"

#include <cerrno>
#include <cstring>
#include <functional>
#include <optional>
#include <vector>

#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/text.h"

namespace kvsmith {
namespace {

constexpr size_t kBlockBytes = size_t{256} << 10;

/// Fills memory with stored bytes; 0 at the end.
using ReadStored = std::function<size_t(char*, size_t)>;

[[noreturn]] void bad_data(const std::string& where, const std::string& what) {
  throw Error(ExitCode::kBadData,
              {.what = what, .where = where, .remedy = "copy or download the file again"});
}

}  // namespace

class InputStream::Unpacker {
 public:
  virtual ~Unpacker() = default;
  virtual size_t read(char* out, size_t bytes) = 0;
};

namespace {

/// One or several gzip members (RFC 1952), one after the other.
class Gunzip : public InputStream::Unpacker {
 public:
  Gunzip(ReadStored read_stored, std::string where)
      : read_stored_(std::move(read_stored)), where_(std::move(where)), block_(kBlockBytes) {
    constexpr int kGzipOnly = 16;
    if (inflateInit2(&stream_, MAX_WBITS + kGzipOnly) != Z_OK) throw std::bad_alloc();
  }
  Gunzip(const Gunzip&) = delete;
  Gunzip& operator=(const Gunzip&) = delete;
  ~Gunzip() override { inflateEnd(&stream_); }

  size_t read(char* out, size_t bytes) override {
    stream_.next_out = reinterpret_cast<Bytef*>(out);
    stream_.avail_out = static_cast<uInt>(std::min(bytes, kBlockBytes));
    const uInt wanted = stream_.avail_out;
    while (stream_.avail_out == wanted) {
      if (stream_.avail_in == 0 && !fill()) {
        if (inside_member_) bad_data(where_, "the gzip data is cut off");
        return 0;
      }
      if (!inside_member_) inflateReset(&stream_);
      inside_member_ = true;
      const int status = inflate(&stream_, Z_NO_FLUSH);
      if (status == Z_STREAM_END)
        inside_member_ = false;
      else if (status != Z_OK && status != Z_BUF_ERROR)
        bad_data(where_, cat("damaged gzip data (", stream_.msg ? stream_.msg : "no reason", ")"));
    }
    return wanted - stream_.avail_out;
  }

 private:
  bool fill() {
    stream_.next_in = reinterpret_cast<Bytef*>(block_.data());
    stream_.avail_in = static_cast<uInt>(read_stored_(block_.data(), block_.size()));
    return stream_.avail_in > 0;
  }

  ReadStored read_stored_;
  std::string where_;
  std::vector<char> block_;
  z_stream stream_{};
  bool inside_member_ = true;  // an empty file is no gzip file
};

/// One or several Zstandard frames (RFC 8878).
class Unzstd : public InputStream::Unpacker {
 public:
  Unzstd(ReadStored read_stored, std::string where)
      : read_stored_(std::move(read_stored)), where_(std::move(where)), block_(kBlockBytes) {
    if (!stream_) throw std::bad_alloc();
  }

  size_t read(char* out, size_t bytes) override {
    ZSTD_outBuffer to{out, bytes, 0};
    while (to.pos == 0) {
      // With nothing to give, the decoder may still hold output of the last block.
      const bool at_end = from_.pos == from_.size && !fill();
      const size_t hint = ZSTD_decompressStream(stream_.get(), &to, &from_);
      if (ZSTD_isError(hint))
        bad_data(where_, cat("damaged zstd data (", ZSTD_getErrorName(hint), ")"));
      if (at_end && to.pos == 0) {
        if (inside_frame_) bad_data(where_, "the zstd data is cut off");
        return 0;
      }
      inside_frame_ = hint != 0;
    }
    return to.pos;
  }

 private:
  bool fill() {
    from_ = {block_.data(), read_stored_(block_.data(), block_.size()), 0};
    return from_.size > 0;
  }

  struct Free {
    void operator()(ZSTD_DStream* stream) const { ZSTD_freeDStream(stream); }
  };
  ReadStored read_stored_;
  std::string where_;
  std::vector<char> block_;
  std::unique_ptr<ZSTD_DStream, Free> stream_{ZSTD_createDStream()};
  ZSTD_inBuffer from_{nullptr, 0, 0};
  bool inside_frame_ = true;
};

}  // namespace

struct InputStream::Impl {
  explicit Impl(const std::filesystem::path& path) : where(path == "-" ? "stdin" : path.string()) {
    if (path != "-") {
      file.emplace(path);
      modified = std::filesystem::last_write_time(path);
    }
    const auto read = [this](char* out, size_t bytes) { return read_stored(out, bytes); };
    if (path.extension() == ".gz") unpacker = std::make_unique<Gunzip>(read, where);
    if (path.extension() == ".zst") unpacker = std::make_unique<Unzstd>(read, where);
  }

  size_t read_stored(char* out, size_t bytes) {
    const size_t got = file ? file->read_some(stored_bytes, out, bytes) : read_stdin(out, bytes);
    hash.update(out, got);
    stored_bytes += got;
    if (got == 0 && file) expect_unchanged();
    return got;
  }

  size_t read_stdin(char* out, size_t bytes) const {
    ssize_t got = 0;
    do got = ::read(STDIN_FILENO, out, bytes);
    while (got < 0 && errno == EINTR);
    if (got < 0)
      throw Error(ExitCode::kIo, {.what = cat("cannot read: ", std::strerror(errno)),
                                  .where = where,
                                  .remedy = "check the device"});
    return static_cast<size_t>(got);
  }

  void expect_unchanged() const {
    std::error_code error;
    if (stored_bytes == file->size() &&
        std::filesystem::last_write_time(file->path(), error) == modified && !error)
      return;
    throw Error(ExitCode::kBadData, {.what = "changed while it was being read",
                                     .where = where,
                                     .remedy = "wait until the file is complete"});
  }

  std::string where;
  std::optional<InputFile> file;  ///< none: standard input
  std::filesystem::file_time_type modified;
  std::unique_ptr<Unpacker> unpacker;
  Sha256 hash;
  uint64_t stored_bytes = 0;
};

InputStream::InputStream(const std::filesystem::path& path) : impl_(std::make_unique<Impl>(path)) {}
InputStream::~InputStream() = default;
InputStream::InputStream(InputStream&&) noexcept = default;
InputStream& InputStream::operator=(InputStream&&) noexcept = default;

size_t InputStream::read(char* out, size_t bytes) {
  return impl_->unpacker ? impl_->unpacker->read(out, bytes) : impl_->read_stored(out, bytes);
}

CorpusSource InputStream::record() {
  return {.name = impl_->file ? impl_->file->path().filename().string() : "stdin",
          .bytes = impl_->stored_bytes,
          .sha256 = impl_->hash.hex()};
}

bool InputStream::is_compressed() const { return impl_->unpacker != nullptr; }

}  // namespace kvsmith
