#include "data/utf8.h"

#include <chrono>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace kvsmith {
namespace {

std::string encoded(uint32_t point) {
  const auto byte = [](uint32_t value) { return static_cast<char>(value); };
  if (point < 0x80) return {byte(point)};
  if (point < 0x800) return {byte(0xC0 | point >> 6), byte(0x80 | (point & 0x3F))};
  if (point < 0x10000)
    return {byte(0xE0 | point >> 12), byte(0x80 | (point >> 6 & 0x3F)),
            byte(0x80 | (point & 0x3F))};
  return {byte(0xF0 | point >> 18), byte(0x80 | (point >> 12 & 0x3F)),
          byte(0x80 | (point >> 6 & 0x3F)), byte(0x80 | (point & 0x3F))};
}

TEST(Utf8, EveryCodePointIsValidExceptSurrogatesAndThoseAboveTheLast) {
  for (uint32_t point = 0; point < 0x120000; ++point) {
    const bool valid = point <= 0x10FFFF && !(point >= 0xD800 && point <= 0xDFFF);
    const std::string text = encoded(point);
    ASSERT_EQ(find_invalid_utf8(text) == text.size(), valid) << std::hex << point;
  }
}

TEST(Utf8, FindsTheFirstBadSequence) {
  const std::vector<std::string> bad = {"\x80",              // continuation without a lead
                                        "\xC0\x80",          // overlong NUL
                                        "\xC1\xBF",          // overlong
                                        "\xE0\x9F\xBF",      // overlong
                                        "\xF0\x8F\xBF\xBF",  // overlong
                                        "\xED\xA0\x80",      // surrogate
                                        "\xF4\x90\x80\x80",  // above U+10FFFF
                                        "\xF8\x88\x80\x80",  // five-byte lead
                                        "\xFF",
                                        "\xC3",           // cut off
                                        "\xE2\x82",       // cut off
                                        "\xF0\x9F\x98",   // cut off
                                        "\xE2\x28\xA1"};  // ASCII inside
  for (const std::string& sequence : bad)
    for (const size_t before : {0, 1, 7, 31, 32, 33, 100})
      for (const char* after : {"", "x", "日本"}) {
        const std::string text = std::string(before, 'a') + sequence + after;
        EXPECT_EQ(find_invalid_utf8(text), before) << "case " << sequence.size();
        EXPECT_EQ(find_invalid_utf8("日" + text), before + 3);
      }
}

TEST(Utf8, ReplacesEachMaximalSubpart) {
  const struct {
    std::string text, repaired;
    uint64_t count;
  } cases[] = {{"", "", 0},
               {"aé", "aé", 0},
               {"a\xFFz", "a\uFFFDz", 1},
               {"\xE2\x82|", "\uFFFD|", 1},                // one cut sequence
               {"\xC0\x80", "\uFFFD\uFFFD", 2},            // a bad lead, then a stray byte
               {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD", 3},  // Unicode 15, table 3-8
               {"\xF0\x9F\x98\xC3\xA9", "\uFFFDé", 1}};
  for (const auto& [text, repaired, count] : cases) {
    uint64_t replaced = 0;
    EXPECT_EQ(replace_invalid_utf8(text, replaced), repaired);
    EXPECT_EQ(replaced, count);
  }
}

TEST(Utf8, ABorderIsNeverInsideACodePoint) {
  const std::string text = "aé日😀z";
  const std::vector<size_t> expected = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 11, 11};
  for (size_t at = 0; at < expected.size(); ++at) EXPECT_EQ(utf8_border(text, at), expected[at]);
  EXPECT_EQ(utf8_border(std::string(9, '\x80'), 5), 5) << "not text: stays near";
}

TEST(Utf8, AsciiIsCheckedAtMemorySpeed) {
  const std::string text(size_t{16} << 20, 'a');
  double best = 1;
  for (int i = 0; i < 5; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    ASSERT_EQ(find_invalid_utf8(text), text.size());
    best = std::min(
        best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  // 1 GB/s is promised for release builds; busy machines and sanitizers get slack.
  EXPECT_LT(best, 0.25);
}

}  // namespace
}  // namespace kvsmith
