#include "train/tensorboard.h"

#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstring>
#include <system_error>

#include <unistd.h>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are written as they are");

constexpr size_t kBufferBytes = size_t{64} << 10;

constexpr std::array<uint32_t, 256> kCrcTable = [] {
  constexpr uint32_t kPolynomial = 0x82F63B78;  // Castagnoli, bits reversed
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < table.size(); ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? kPolynomial : 0);
    table[byte] = crc;
  }
  return table;
}();

template <class Number>
std::string raw(Number number) {
  std::string bytes(sizeof number, '\0');
  std::memcpy(bytes.data(), &number, sizeof number);
  return bytes;
}

/// TFRecord stores checksums masked, so that a checksum of data with checksums inside stays good.
std::string masked_crc(std::string_view bytes) {
  return raw(std::rotr(crc32c(bytes), 15) + 0xA282EAD8U);
}

std::string record(std::string_view payload) {
  const std::string length = raw(uint64_t{payload.size()});
  return cat(length, masked_crc(length), payload, masked_crc(payload));
}

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}

// Protocol buffer fields: the key is the field number with the wire type in its low three bits.
std::string key(uint64_t field, uint64_t wire_type) { return varint(field << 3 | wire_type); }
std::string number(uint64_t field, uint64_t value) { return key(field, 0) + varint(value); }
std::string fixed(uint64_t field, double value) { return key(field, 1) + raw(value); }
std::string fixed(uint64_t field, float value) { return key(field, 5) + raw(value); }
std::string bytes(uint64_t field, std::string_view value) {
  return cat(key(field, 2), varint(value.size()), value);
}

// tensorflow/core/util/event.proto and summary.proto
enum Event : uint64_t { kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5, kSessionLog = 7 };
enum SessionLog : uint64_t { kStatus = 1, kStart = 1 };
enum Summary : uint64_t { kValue = 1, kTag = 1, kSimpleValue = 2 };

std::filesystem::path new_name(const std::filesystem::path& directory) {
  static std::atomic<int> count{0};
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return directory / cat("events.out.tfevents.",
                         std::chrono::duration_cast<std::chrono::seconds>(now).count(), ".",
                         host.data(), ".", ::getpid(), ".", count++);
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = ~uint32_t{0};
  for (const char byte : bytes)
    crc = crc >> 8 ^ kCrcTable[(crc ^ static_cast<uint8_t>(byte)) & 255];
  return ~crc;
}

EventWriter::EventWriter(const std::filesystem::path& directory,
                         std::optional<int64_t> resumed_step) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) {
    throw Error(ExitCode::kCannotCreate, {.what = "cannot create: " + error.message(),
                                          .where = directory.string(),
                                          .remedy = "choose another directory"});
  }
  file_ = std::make_unique<AppendFile>(new_name(directory));
  add(0, bytes(kFileVersion, "brain.Event:2"));
  if (resumed_step) add(*resumed_step + 1, bytes(kSessionLog, number(kStatus, kStart)));
  flush();
}

EventWriter::~EventWriter() {
  try {
    flush();
  } catch (const Error&) {  // NOLINT(bugprone-empty-catch): diagrams are not worth ending for
  }
}

void EventWriter::scalar(int64_t step, std::string_view tag, float value) {
  add(step, bytes(kSummary, bytes(kValue, bytes(kTag, tag) + fixed(kSimpleValue, value))));
  if (buffer_.size() < kBufferBytes) return;
  try {
    flush();
  } catch (const Error& error) {
    if (error.code() != ExitCode::kIo) throw;
  }
}

void EventWriter::flush() {
  file_->append(buffer_);
  buffer_.clear();
}

void EventWriter::add(int64_t step, std::string_view content) {
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  buffer_ += record(
      cat(fixed(kWallTime, now.count()), number(kStep, static_cast<uint64_t>(step)), content));
}

}  // namespace kvsmith
