#include "data/line_reader.h"

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

constexpr size_t kReadBytes = size_t{256} << 10;
constexpr size_t kMaxLineBytes = size_t{64} << 20;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

}  // namespace

LineReader::LineReader(const std::filesystem::path& path)
    : name_(path == "-" ? "stdin" : path.string()), stream_(path) {}

std::string LineReader::where() const { return cat(name_, ":", line_); }

bool LineReader::next(std::string_view& line) {
  ++line_;
  size_t end = used_;
  while ((end = buffer_.find('\n', end)) == buffer_.npos && !at_end_) {
    buffer_.erase(0, used_);
    used_ = 0;
    end = buffer_.size();
    if (end > kMaxLineBytes) {
      throw Error(ExitCode::kBadData, {.what = cat("a line of more than ", kMaxLineBytes, " bytes"),
                                       .where = where(),
                                       .remedy = "one JSON object a line is expected"});
    }
    buffer_.resize(end + kReadBytes);
    const size_t got = stream_.read(buffer_.data() + end, kReadBytes);
    buffer_.resize(end + got);
    at_end_ = got == 0;
  }
  if (used_ == buffer_.size()) return false;
  line = std::string_view(buffer_).substr(used_, end - used_);
  used_ = end == buffer_.npos ? buffer_.size() : end + 1;
  if (line_ == 1 && line.starts_with(kByteOrderMark)) line.remove_prefix(kByteOrderMark.size());
  if (line.ends_with('\r')) line.remove_suffix(1);
  return true;
}

}  // namespace kvsmith
