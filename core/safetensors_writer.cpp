#include <algorithm>
#include <functional>
#include <utility>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/safetensors.h"
#include "core/safetensors_format.h"
#include "core/text.h"

namespace kvsmith {
namespace {

using namespace safetensors;
using Json = nlohmann::json;

constexpr uint64_t kDataAlignment = 64;

[[noreturn]] void misused(const std::string& where, const std::string& what) {
  throw Error(ExitCode::kInternal,
              {.what = what, .where = where, .remedy = "this is a bug; please report it"});
}

}  // namespace

void sort_for_alignment(std::vector<TensorInfo>& tensors) {
  std::ranges::stable_sort(tensors, std::ranges::greater{},
                           [](const TensorInfo& info) { return dtype_bytes(info.dtype); });
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     std::vector<TensorInfo> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : file_(path), where_(path.string()), tensors_(std::move(tensors)) {
  std::string header = "{";
  const auto add = [&](std::string_view key, const Json& value) {
    try {
      header += cat(header.size() > 1 ? "," : "", Json(key).dump(), ":", value.dump());
    } catch (const Json::exception&) {
      misused(where_, cat(in_quotes(key), " is not valid UTF-8"));
    }
  };
  if (!metadata.empty()) add(kMetadataName, metadata);
  std::map<std::string_view, int> seen;
  uint64_t end = 0;
  for (TensorInfo& info : tensors_) {
    const std::string place = place_of(where_, info.name);
    const uint64_t element = dtype_bytes(info.dtype);
    if (element == 0) misused(place, "has the unsupported dtype " + in_quotes(info.dtype));
    if (info.shape.size() > kMostDimensions) misused(place, "has more than 8 dimensions");
    if (std::ranges::any_of(info.shape, [](int64_t size) { return size < 0; })) {
      misused(place, "has the shape " + shape_text(info.shape));
    }
    if (info.name == kMetadataName || seen[info.name]++ > 0) misused(place, "is a name in use");
    const auto bytes = size_of(info);
    if (!bytes) misused(place, "has more bytes than a number can hold");
    if (end % element != 0) {
      misused(place, cat("would begin at byte ", end, " of the data, not a multiple of ", element,
                         ": sort_for_alignment() first"));
    }
    info.offset = end;
    info.bytes = *bytes;
    end += *bytes;
    add(info.name,
        {{"dtype", info.dtype}, {"shape", info.shape}, {"data_offsets", {info.offset, end}}});
  }
  header += "}";
  const uint64_t used = kLengthBytes + header.size();
  header += std::string((kDataAlignment - used % kDataAlignment) % kDataAlignment, ' ');
  if (header.size() > kLargestHeader || tensors_.size() > kMostTensors) {
    misused(where_, cat(tensors_.size(), " tensors need a header of ", header.size(),
                        " bytes, more than the format allows"));
  }
  for (TensorInfo& info : tensors_) info.offset += kLengthBytes + header.size();
  const uint64_t length = header.size();
  file_.write(&length, sizeof length);
  file_.write(header);
}

void SafetensorsWriter::write(std::string_view name, const void* data, uint64_t bytes) {
  if (next_ == tensors_.size()) misused(where_, cat("has all tensors before ", in_quotes(name)));
  const TensorInfo& info = tensors_[next_];
  if (name != info.name || bytes != info.bytes) {
    misused(place_of(where_, info.name),
            cat("with ", info.bytes, " bytes is next, not ", in_quotes(name), " with ", bytes));
  }
  file_.write(data, bytes);
  ++next_;
}

std::string SafetensorsWriter::commit() {
  if (next_ == tensors_.size()) return file_.commit();
  misused(where_, cat("lacks tensor ", in_quotes(tensors_[next_].name), " and ",
                      tensors_.size() - next_ - 1, " more"));
}

}  // namespace kvsmith
