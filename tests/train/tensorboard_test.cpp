#include "train/tensorboard.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/files.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_directory.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

/// CRC-32C bit by bit, as in the definition.
uint32_t slow_crc32c(std::string_view bytes) {
  uint32_t crc = 0xFFFFFFFF;
  for (const char c : bytes) {
    crc ^= static_cast<uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1) != 0 ? (crc >> 1) ^ 0x82F63B78 : crc >> 1;
  }
  return crc ^ 0xFFFFFFFF;
}

template <class Number>
Number number_at(std::string_view bytes, size_t at) {
  Number number{};
  std::memcpy(&number, &bytes.at(at), sizeof number);
  return number;
}

uint32_t unmasked(uint32_t masked) {
  const uint32_t rotated = masked - 0xA282EAD8;
  return std::rotl(rotated, 15);
}

/// The payloads of a TFRecord file, checked.
std::vector<std::string> records_of(std::string_view file) {
  std::vector<std::string> records;
  while (!file.empty()) {
    const auto length = number_at<uint64_t>(file, 0);
    EXPECT_EQ(unmasked(number_at<uint32_t>(file, 8)), slow_crc32c(file.substr(0, 8)));
    const std::string_view payload = file.substr(12, length);
    EXPECT_EQ(unmasked(number_at<uint32_t>(file, 12 + length)), slow_crc32c(payload));
    records.emplace_back(payload);
    file.remove_prefix(16 + length);
  }
  return records;
}

/// The fields of a protocol buffer message: number to value as raw bytes, varints as decimal text.
std::map<uint64_t, std::string> fields_of(std::string_view message) {
  const auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<uint8_t>(message.at(0));
      message.remove_prefix(1);
      value |= uint64_t{byte & 0x7FU} << shift;
      if (byte < 0x80) return value;
    }
  };
  std::map<uint64_t, std::string> fields;
  while (!message.empty()) {
    const uint64_t key = varint();
    std::string& value = fields[key >> 3];
    if ((key & 7) == 0) {
      value = std::to_string(varint());
      continue;
    }
    const size_t size = (key & 7) == 1 ? 8 : (key & 7) == 5 ? 4 : varint();
    value = message.substr(0, size);
    message.remove_prefix(size);
  }
  return fields;
}

std::vector<std::map<uint64_t, std::string>> events_in(const fs::path& file) {
  std::vector<std::map<uint64_t, std::string>> events;
  for (const auto& record : records_of(read_file(file))) events.push_back(fields_of(record));
  return events;
}

fs::path only_file(const fs::path& directory) {
  const fs::directory_iterator files(directory);
  EXPECT_EQ(std::distance(begin(files), end(files)), 1);
  return fs::directory_iterator(directory)->path();
}

TEST(Crc32c, IsThatOfTheStandard) {
  // RFC 3720, B.4, and the usual check value.
  const struct {
    std::string bytes;
    uint32_t crc;
  } cases[] = {{"", 0},
               {"123456789", 0xE3069283},
               {std::string(32, '\0'), 0x8A9136AA},
               {std::string(32, '\xff'), 0x62A8AB43}};
  for (const auto& [bytes, crc] : cases) {
    EXPECT_EQ(crc32c(bytes), crc);
    EXPECT_EQ(slow_crc32c(bytes), crc);
  }
}

TEST(EventWriter, ScalarsAreRecords) {
  const TemporaryDirectory directory;
  const struct {
    int64_t step;
    std::string tag;
    float value;
  } scalars[] = {{0, "train/loss", 10.5F},
                 {1, "train/loss", -0.0F},
                 {300, "speed", 1e30F},
                 {int64_t{1} << 40, std::string(300, 't'), 1.0F / 3}};
  {
    EventWriter writer(directory / "new/events");
    for (const auto& [step, tag, value] : scalars) writer.scalar(step, tag, value);
  }
  const fs::path file = only_file(directory / "new/events");
  EXPECT_EQ(file.filename().string().rfind("events.out.tfevents.", 0), 0U);
  const auto events = events_in(file);
  ASSERT_EQ(events.size(), 1 + std::size(scalars));
  EXPECT_EQ(events[0].at(3), "brain.Event:2");
  for (size_t i = 0; i < std::size(scalars); ++i) {
    const auto& event = events[i + 1];
    EXPECT_EQ(event.at(2), std::to_string(scalars[i].step));
    EXPECT_NEAR(number_at<double>(event.at(1), 0), static_cast<double>(std::time(nullptr)), 60);
    const auto value = fields_of(fields_of(event.at(5)).at(1));
    EXPECT_EQ(value.at(1), scalars[i].tag);
    const float written = number_at<float>(value.at(2), 0);
    EXPECT_EQ(std::bit_cast<uint32_t>(written), std::bit_cast<uint32_t>(scalars[i].value));
  }
}

TEST(EventWriter, AResumedRunStartsWithASessionLog) {
  const TemporaryDirectory directory;
  const EventWriter writer(directory.path(), 120);
  const auto events = events_in(only_file(directory.path()));
  ASSERT_EQ(events.size(), 2U);
  EXPECT_EQ(events[0].at(3), "brain.Event:2");
  EXPECT_EQ(events[1].at(2), "121");
  EXPECT_EQ(fields_of(events[1].at(7)).at(1), "1");
}

TEST(EventWriter, FlushedScalarsAreInTheFile) {
  const TemporaryDirectory directory;
  EventWriter writer(directory.path());
  const fs::path file = only_file(directory.path());
  writer.scalar(1, "a", 1);
  EXPECT_EQ(events_in(file).size(), 1U);
  writer.flush();
  EXPECT_EQ(events_in(file).size(), 2U);
  for (int i = 0; i < 10'000; ++i) writer.scalar(i, "b", 1);
  EXPECT_GT(events_in(file).size(), 5'000U) << "nothing is written without flush()";
}

TEST(EventWriter, EveryWriterHasItsOwnFile) {
  const TemporaryDirectory directory;
  {
    const EventWriter first(directory.path()), second(directory.path());
  }
  const fs::directory_iterator files(directory.path());
  EXPECT_EQ(std::distance(begin(files), end(files)), 2);
}

TEST(EventWriter, AFileInPlaceOfTheDirectoryIsRefused) {
  const TemporaryDirectory directory;
  write_file(directory / "events", "x");
  expect_error([&] { EventWriter(directory / "events"); }, ExitCode::kCannotCreate, "events");
}

}  // namespace
}  // namespace kvsmith
