#include "data/unicode.h"

#include <algorithm>
#include <array>
#include <limits>
#include <span>

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/stringpiece.h>
#include <unicode/uchar.h>
#include <unicode/uniset.h>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

struct Range {
  char32_t first, last;
};

// New in Unicode 15.1 and 16.0 (DerivedGeneralCategory.txt), which Debian 12's ICU 72 lacks.
constexpr std::array kNewLetters = std::to_array<Range>(
    {{0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0x105C0, 0x105F3},
     {0x10D4A, 0x10D65}, {0x10D6F, 0x10D85}, {0x10EC2, 0x10EC4}, {0x11380, 0x11389},
     {0x1138B, 0x1138B}, {0x1138E, 0x1138E}, {0x11390, 0x113B5}, {0x113B7, 0x113B7},
     {0x113D1, 0x113D1}, {0x113D3, 0x113D3}, {0x11BC0, 0x11BE0}, {0x13460, 0x143FA},
     {0x16100, 0x1611D}, {0x16D40, 0x16D6C}, {0x18CFF, 0x18CFF}, {0x1E5D0, 0x1E5ED},
     {0x1E5F0, 0x1E5F0}, {0x2EBF0, 0x2EE5D}});
constexpr std::array kNewNumbers = std::to_array<Range>({{0x10D40, 0x10D49},
                                                         {0x116D0, 0x116E3},
                                                         {0x11BF0, 0x11BF9},
                                                         {0x16130, 0x16139},
                                                         {0x16D70, 0x16D79},
                                                         {0x1CCF0, 0x1CCF9},
                                                         {0x1E5F1, 0x1E5FA}});

bool is_in(std::span<const Range> ranges, char32_t c) {
  return std::ranges::any_of(ranges, [c](Range r) { return r.first <= c && c <= r.last; });
}

CharClass look_up(char32_t c) {
  const auto point = static_cast<UChar32>(c);
  if (is_in(kNewLetters, c)) return CharClass::kLetter;
  if (is_in(kNewNumbers, c)) return CharClass::kNumber;
  UVersionInfo age;
  u_charAge(point, age);
  if (age[0] > 16) return CharClass::kOther;
  const uint32_t category = U_GET_GC_MASK(point);
  if (category & U_GC_L_MASK) return CharClass::kLetter;
  if (category & U_GC_N_MASK) return CharClass::kNumber;
  return u_isUWhiteSpace(point) ? CharClass::kWhite : CharClass::kOther;
}

void check(UErrorCode status) {
  if (U_FAILURE(status))
    throw Error(ExitCode::kInternal, {.what = cat("ICU could not normalise: ", u_errorName(status)),
                                      .where = "tokenizer",
                                      .remedy = ""});
}

int32_t checked_length(std::string_view text) {
  if (text.size() > std::numeric_limits<int32_t>::max())
    throw Error(ExitCode::kBadData, {.what = "a text of 2 GiB or more",
                                     .where = "text to normalise",
                                     .remedy = "encode it in parts"});
  return static_cast<int32_t>(text.size());
}

const icu::Normalizer2& nfc_of_unicode_9() {
  static const icu::FilteredNormalizer2 nfc = [] {
    UErrorCode status = U_ZERO_ERROR;
    static const icu::UnicodeSet known(icu::UnicodeString("[:Age=9.0:]"), status);
    const icu::Normalizer2* any = icu::Normalizer2::getNFCInstance(status);
    check(status);
    return icu::FilteredNormalizer2(*any, known);
  }();
  return nfc;
}

}  // namespace

CharClass char_class(char32_t c) {
  // The Basic Multilingual Plane holds nearly all text.
  static const auto plane = [] {
    std::array<CharClass, 0x10000> classes{};
    for (char32_t i = 0; i < classes.size(); ++i) classes[i] = look_up(i);
    return classes;
  }();
  return c < plane.size() ? plane[c] : look_up(c);
}

bool is_numeric(char32_t c) {
  return char_class(c) == CharClass::kNumber || (c >= 0x11DE0 && c <= 0x11DE9) ||
         (c >= 0x16FF4 && c <= 0x16FF6);
}

std::string to_utf8(char32_t c) {
  const auto tail = [c](int shift) { return static_cast<char>(0x80 | ((c >> shift) & 0x3F)); };
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xC0 | (c >> 6)), tail(0)};
  if (c < 0x10000) return {static_cast<char>(0xE0 | (c >> 12)), tail(6), tail(0)};
  return {static_cast<char>(0xF0 | (c >> 18)), tail(12), tail(6), tail(0)};
}

std::string to_nfc(std::string_view text) {
  // Below U+0300, whose first byte is 0xCC, nothing changes.
  if (std::ranges::none_of(text, [](unsigned char byte) { return byte >= 0xCC; }))
    return std::string(text);
  std::string out;
  out.reserve(text.size());
  icu::StringByteSink<std::string> sink(&out);
  UErrorCode status = U_ZERO_ERROR;
  const char* begin = text.data();
  nfc_of_unicode_9().normalizeUTF8(0, {begin, checked_length(text)}, sink, nullptr, status);
  check(status);
  return out;
}

}  // namespace kvsmith
