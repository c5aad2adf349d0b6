#include "data/pre_tokenizer.h"

#include <algorithm>
#include <array>

#include "data/unicode.h"
#include "data/utf8.h"

namespace kvsmith {
namespace {

constexpr std::string_view kGpt2Regex =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

struct Name {
  std::string_view name;
  PreTokenizer kind;
};

// "llama-bpe", "gpt-2" and "llama-v3" are names llama.cpp writes to or reads from
// tokenizer.ggml.pre.
constexpr auto kNames = std::to_array<Name>({{"gpt2", PreTokenizer::kGpt2},
                                             {"smollm", PreTokenizer::kSmollm},
                                             {"llama3", PreTokenizer::kLlama3},
                                             {"qwen2", PreTokenizer::kQwen2},
                                             {"gpt-2", PreTokenizer::kGpt2},
                                             {"llama-bpe", PreTokenizer::kLlama3},
                                             {"llama-v3", PreTokenizer::kLlama3}});
constexpr size_t kKinds = 4;

bool is_newline(char c) { return c == '\n' || c == '\r'; }

/// A text from whose beginning a pre-token is taken.
class Scanner {
 public:
  Scanner(std::string_view text, bool parts_digits) : text_(text), parts_digits_(parts_digits) {}

  struct Char {
    CharClass kind = CharClass::kOther;
    size_t bytes = 0;  ///< 0: the text ends here
  };

  /// Where digits are parted first, the text ends before one as far as the expression can see.
  Char at(size_t place) const {
    if (place == text_.size()) return {};
    const CodePoint point = code_point_at(text_, place);
    const CharClass kind = char_class(point.value);
    if (parts_digits_ && kind != CharClass::kLetter && is_numeric(point.value)) return {};
    return {kind, point.bytes};
  }

  /// Past the characters of one class.
  size_t skip(CharClass kind, size_t place, size_t most = SIZE_MAX) const {
    for (; most > 0; --most) {
      const Char next = at(place);
      if (next.bytes == 0 || next.kind != kind) break;
      place += next.bytes;
    }
    return place;
  }

  size_t skip_newlines(size_t place) const {
    while (place < text_.size() && is_newline(text_[place])) ++place;
    return place;
  }

  /// 's 't 're 've 'm 'll 'd, or 0.
  size_t contraction(bool folds) const {
    if (text_[0] != '\'') return 0;
    const auto letter = [&](size_t i) {
      const char c = i < text_.size() ? text_[i] : '\0';
      return folds && c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    };
    const char first = letter(1), second = letter(2);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
    if ((first == 'r' || first == 'v') && second == 'e') return 3;
    if (first == 'l' && second == 'l') return 3;
    if (folds && text_.substr(1).starts_with("\u017F")) return 3;  // the long s folds to s
    return 0;
  }

  /// White space at the beginning: up to its last newline where `ends_at_newline`, else all but the
  /// character that what follows may begin with.
  size_t white_space(bool ends_at_newline) const {
    size_t end = 0, last = 0, newline = 0;
    for (Char next = at(0); next.bytes > 0 && next.kind == CharClass::kWhite; next = at(end)) {
      last = end;
      if (is_newline(text_[end])) newline = end + 1;
      end += next.bytes;
    }
    if (ends_at_newline && newline > 0) return newline;
    return at(end).bytes == 0 || last == 0 ? end : last;
  }

 private:
  std::string_view text_;
  bool parts_digits_;
};

/// ' ?' followed by characters of one class, or 0.
size_t spaced_run(const Scanner& text, std::string_view bytes, CharClass kind) {
  const size_t begin = bytes[0] == ' ' ? 1 : 0;
  const size_t end = text.skip(kind, begin);
  return end == begin ? 0 : end;
}

size_t first_of_gpt2(const Scanner& text, std::string_view bytes) {
  if (const size_t found = text.contraction(false)) return found;
  for (const CharClass kind : {CharClass::kLetter, CharClass::kNumber, CharClass::kOther})
    if (const size_t found = spaced_run(text, bytes, kind)) return found;
  return text.white_space(false);
}

size_t first_of_llama3(const Scanner& text, std::string_view bytes, size_t most_digits) {
  if (const size_t found = text.contraction(true)) return found;
  const auto first = text.at(0);
  const bool may_lead = first.kind != CharClass::kNumber && !is_newline(bytes[0]);
  if (first.kind == CharClass::kLetter ||
      (may_lead && text.skip(CharClass::kLetter, first.bytes, 1) > first.bytes))
    return text.skip(CharClass::kLetter, first.bytes);
  if (first.kind == CharClass::kNumber) return text.skip(CharClass::kNumber, 0, most_digits);
  if (const size_t found = spaced_run(text, bytes, CharClass::kOther))
    return text.skip_newlines(found);
  return text.white_space(true);
}

}  // namespace

std::optional<PreTokenizer> pre_tokenizer_named(std::string_view name) {
  const auto* found = std::ranges::find(kNames, name, &Name::name);
  return found == kNames.end() ? std::nullopt : std::optional(found->kind);
}

std::vector<std::string> pre_tokenizer_names() {
  std::vector<std::string> names;
  for (size_t i = 0; i < kKinds; ++i) names.emplace_back(kNames[i].name);
  return names;
}

std::string_view regex_of(PreTokenizer kind) {
  if (kind == PreTokenizer::kLlama3) return kLlama3Regex;
  return kind == PreTokenizer::kQwen2 ? kQwen2Regex : kGpt2Regex;
}

std::optional<PreTokenizer> pre_tokenizer_of_regex(std::string_view regex) {
  for (const auto kind : {PreTokenizer::kGpt2, PreTokenizer::kLlama3, PreTokenizer::kQwen2})
    if (regex == regex_of(kind)) return kind;
  return std::nullopt;
}

size_t first_pre_token(PreTokenizer kind, std::string_view text) {
  if (kind == PreTokenizer::kSmollm) {
    const CodePoint first = code_point_at(text, 0);
    if (is_numeric(first.value)) return first.bytes;
    return first_of_gpt2(Scanner(text, true), text);
  }
  const Scanner scanner(text, false);
  if (kind == PreTokenizer::kGpt2) return first_of_gpt2(scanner, text);
  return first_of_llama3(scanner, text, kind == PreTokenizer::kLlama3 ? 3 : 1);
}

size_t last_border(PreTokenizer kind, std::string_view text, size_t limit) {
  const bool ends_at_newline = kind == PreTokenizer::kLlama3 || kind == PreTokenizer::kQwen2;
  // What is cut off at the end of `text` may be anything.
  const auto may_be_white = [&](size_t at) {
    return find_invalid_utf8(text.substr(at, 4)) == 0 ||
           char_class(code_point_at(text, at).value) == CharClass::kWhite;
  };
  const auto follows_white = [&](size_t at) {
    if (at == 0) return false;
    const std::string_view last = text.substr(utf8_border(text, at - 1), 4);
    return find_invalid_utf8(last) > 0 &&
           char_class(code_point_at(last, 0).value) == CharClass::kWhite;
  };
  // After a line. A rule that does not end at newlines takes white space before one along.
  for (size_t at = limit; at > 0 && (at = text.rfind('\n', at - 1)) != text.npos;)
    if (!may_be_white(at + 1) && (ends_at_newline || !follows_white(at))) return at + 1;
  // Nothing but newlines joins what is no white space with what follows it.
  for (size_t at = limit; at > 0 && (at = text.rfind(' ', at)) != text.npos && at > 0; --at)
    if (!follows_white(at)) return at;
  return 0;
}

}  // namespace kvsmith
