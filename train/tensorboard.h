#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/files.h"

namespace kvsmith {

/// CRC-32C (Castagnoli, RFC 3720) of `bytes`.
uint32_t crc32c(std::string_view bytes);

/// Writes scalars for TensorBoard: a new file events.out.tfevents.* in `directory`, made if it is
/// not there. One thread only.
class EventWriter {
 public:
  /// A run that continues after `resumed_step` makes TensorBoard forget what earlier files say
  /// about later steps.
  explicit EventWriter(const std::filesystem::path& directory,
                       std::optional<int64_t> resumed_step = {});
  ~EventWriter();  ///< flushes; errors are lost here, so call flush() before
  EventWriter(const EventWriter&) = delete;
  EventWriter& operator=(const EventWriter&) = delete;

  /// What cannot be written is kept for the next call.
  void scalar(int64_t step, std::string_view tag, float value);
  /// Hands everything to the operating system. Throws 74; then nothing is lost yet.
  void flush();

 private:
  void add(int64_t step, std::string_view content);

  std::unique_ptr<AppendFile> file_;
  std::string buffer_;
};

}  // namespace kvsmith
