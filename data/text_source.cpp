#include "data/text_source.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include <glob.h>

#include "core/error.h"
#include "core/text.h"
#include "data/input_stream.h"
#include "data/json_field.h"
#include "data/utf8.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

constexpr size_t kReadBytes = size_t{256} << 10;
constexpr size_t kMaxLineBytes = size_t{64} << 20;  // of .jsonl, whose lines are parsed whole
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

/// ".txt" or ".jsonl" below any compression, else "".
std::string kind_of(fs::path path) {
  if (path == "-") return ".txt";
  if (path.extension() == ".gz" || path.extension() == ".zst") path = path.stem();
  const std::string extension = path.extension().string();
  return extension == ".txt" || extension == ".jsonl" ? extension : "";
}

std::vector<fs::path> texts_below(const fs::path& folder) {
  std::vector<fs::path> found;
  try {
    for (auto at = fs::recursive_directory_iterator(folder); at != fs::end(at); ++at) {
      if (at->path().filename().string().starts_with('.')) {
        at.disable_recursion_pending();
      } else if (at->is_regular_file() && !kind_of(at->path()).empty()) {
        found.push_back(at->path());
      }
    }
  } catch (const fs::filesystem_error& error) {
    throw Error(
        ExitCode::kIo,
        {.what = error.code().message(), .where = folder.string(), .remedy = "check the folder"});
  }
  if (found.empty())
    throw Error(ExitCode::kBadData, {.what = "no .txt or .jsonl files in this folder",
                                     .where = folder.string(),
                                     .remedy = "both may also end in .gz or .zst"});
  std::ranges::sort(found);
  return found;
}

std::vector<std::string> matches(const std::string& pattern) {
  glob_t found{};
  std::vector<std::string> names;
  if (::glob(pattern.c_str(), GLOB_TILDE, nullptr, &found) == 0)
    names.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  ::globfree(&found);
  return names;
}

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos;
}

}  // namespace

std::vector<fs::path> expand_inputs(const std::vector<std::string>& inputs) {
  std::vector<fs::path> files;
  for (const std::string& input : inputs) {
    if (input == "-") {
      files.emplace_back(input);
      continue;
    }
    std::error_code ignored;
    std::vector<std::string> names{input};
    if (!fs::exists(input, ignored)) names = matches(input);
    if (names.empty())
      throw Error(
          ExitCode::kMissingInput,
          {.what = "no such file, folder or match", .where = input, .remedy = "check the name"});
    for (const std::string& name : names) {
      if (!fs::is_directory(name)) {
        files.emplace_back(name);
      } else {
        std::ranges::copy(texts_below(name), std::back_inserter(files));
      }
    }
  }
  return files;
}

struct TextSource::Impl {
  Impl(const std::vector<std::string>& inputs, const TextOptions& given, BorderRule rule)
      : options(given),
        last_border(std::move(rule)),
        files(expand_inputs(inputs)),
        replaces(given.invalid_utf8 == "replace"),
        skips(given.invalid_utf8 == "skip") {
    if (!replaces && !skips && options.invalid_utf8 != "error")
      throw Error(ExitCode::kConfig, {.what = cat("\"", options.invalid_utf8, "\""),
                                      .where = "invalid_utf8",
                                      .remedy = "choose error, replace or skip"});
    if (options.max_document_bytes < 16 || options.max_document_bytes > uint64_t{1} << 30)
      throw Error(ExitCode::kConfig, {.what = cat(options.max_document_bytes),
                                      .where = "max_document_bytes",
                                      .remedy = "choose 16 to 2^30"});
    for (const fs::path& file : files)
      if (kind_of(file).empty())
        throw Error(ExitCode::kBadData, {.what = "neither .txt nor .jsonl, plain or .gz or .zst",
                                         .where = file.string(),
                                         .remedy = "rename it if it is one of them"});
  }

  bool next(TextPiece& piece) {
    while (stream || open_next_file()) {
      piece = {};
      if (is_jsonl ? next_of_jsonl(piece) : next_of_txt(piece)) return true;
      sources.push_back(stream->record());
      stream.reset();
    }
    return false;
  }

  bool open_next_file() {
    if (next_file == files.size()) return false;
    const fs::path& path = files[next_file++];
    where = path == "-" ? "stdin" : path.string();
    is_jsonl = kind_of(path) == ".jsonl";
    stream.emplace(path);
    buffer.clear();
    used = 0, offset = 0, line = 1;
    at_end = false, inside_document = false, skipping = false, at_line_start = true;
    document.clear();
    fill(kByteOrderMark.size());
    if (rest().starts_with(kByteOrderMark)) used = offset = kByteOrderMark.size();
    return true;
  }

  std::string_view rest() const { return std::string_view(buffer).substr(used); }

  /// Reads until rest() has `bytes` bytes or the file ends.
  void fill(size_t bytes) {
    while (!at_end && buffer.size() - used < bytes) {
      buffer.erase(0, used);
      used = 0;
      const size_t old = buffer.size();
      buffer.resize(old + kReadBytes);
      const size_t got = stream->read(buffer.data() + old, kReadBytes);
      buffer.resize(old + got);
      at_end = got == 0;
    }
  }

  void consume(size_t bytes) {
    const std::string_view gone = rest().substr(0, bytes);
    line += static_cast<uint64_t>(std::ranges::count(gone, '\n'));
    if (!gone.empty()) at_line_start = gone.back() == '\n';
    used += bytes;
    offset += bytes;
  }

  std::string place(std::string_view text, size_t at) const {
    const auto newlines = std::ranges::count(text.substr(0, at), '\n');
    return cat(where, ":", line + static_cast<uint64_t>(newlines));
  }

  [[noreturn]] void refuse(std::string_view text,
                           size_t at,
                           const std::string& what,
                           const std::string& remedy) const {
    throw Error(ExitCode::kBadData,
                {.what = cat(what, " at byte ", offset + at,
                             stream->is_compressed() ? " of the unpacked text" : ""),
                 .where = place(text, at),
                 .remedy = remedy});
  }

  /// The text, repaired if the options say so; nothing when the document is to be skipped.
  std::optional<std::string_view> check(std::string_view text) {
    const size_t bad = find_invalid_utf8(text);
    const size_t nul = std::min(text.find('\0'), text.size());
    if (nul < text.size() && nul <= bad) refuse(text, nul, "a NUL byte", "is this a binary file?");
    if (bad == text.size()) return text;
    if (skips) return std::nullopt;
    if (!replaces)
      refuse(text, bad, "invalid UTF-8",
             "convert the file; `data build` also takes --invalid-utf8 replace or skip");
    repaired = replace_invalid_utf8(text, counts.replaced_sequences);
    if (const size_t at = repaired.find('\0'); at != repaired.npos)
      refuse(text, text.find('\0'), "a NUL byte", "is this a binary file?");
    return repaired;
  }

  /// The first separator line that begins within `limit` bytes: {begin, end with its newline}.
  std::optional<std::pair<size_t, size_t>> find_separator(size_t limit) const {
    const std::string& mark = options.document_separator;
    const std::string_view text = rest();
    for (size_t at = 0; (at = text.find(mark, at)) != text.npos && at <= limit; ++at) {
      if (at == 0 ? !at_line_start : text[at - 1] != '\n') continue;
      const std::string_view after = text.substr(at + mark.size());
      if (after.empty()) return std::pair{at, text.size()};
      if (after.starts_with('\n')) return std::pair{at, at + mark.size() + 1};
      if (after.starts_with("\r\n")) return std::pair{at, at + mark.size() + 2};
    }
    return std::nullopt;
  }

  /// Where a piece of `text`, which is longer than the limit, ends, and whether that is within a
  /// word.
  std::pair<size_t, bool> cut(std::string_view text) const {
    const size_t limit = options.max_document_bytes;
    const size_t border = last_border(text, limit);
    return border > 0 ? std::pair{border, false} : std::pair{utf8_border(text, limit), true};
  }

  bool next_of_txt(TextPiece& piece) {
    const size_t limit = options.max_document_bytes;
    const std::string& mark = options.document_separator;
    while (true) {
      fill(limit + std::max<size_t>(mark.size() + 2, 4));  // a separator, a code point
      if (rest().empty() && !inside_document) return false;
      size_t end = rest().size(), after = end;
      bool ends = at_end && end <= limit;
      bool cuts_word = false;
      if (const auto separator = mark.empty() ? std::nullopt : find_separator(limit)) {
        std::tie(end, after) = *separator;
        ends = true;
      } else if (!ends) {
        std::tie(end, cuts_word) = cut(rest());
        after = end;
      }
      const bool begins = !inside_document;
      inside_document = !ends;
      const bool given = give(rest().substr(0, end), begins, ends, piece);
      if (given && cuts_word) ++counts.cuts_in_words;
      // The piece points into the buffer, which stays as it is until the next call.
      consume(after);
      if (given) return true;
    }
  }

  /// Fills `piece` unless the text is of a document that is left out.
  bool give(std::string_view text, bool begins, bool ends, TextPiece& piece) {
    if (begins) skipping = false;
    if (begins && ends && is_blank(text)) {
      ++counts.blank_documents;
      return false;
    }
    if (skipping) return false;
    const auto checked = check(text);
    if (!checked) {
      skipping = true;
      ++counts.skipped_documents;
      if (begins) return false;
      counts.bytes -= document_bytes;
      piece = {.ends_document = true, .drops_document = true};
      return true;
    }
    document_bytes = (begins ? 0 : document_bytes) + checked->size();
    counts.bytes += checked->size();
    counts.documents += ends;
    piece = {.text = *checked, .begins_document = begins, .ends_document = ends};
    return true;
  }

  bool next_of_jsonl(TextPiece& piece) {
    while (document_at == document.size()) {
      if (!read_line()) return false;
    }
    const std::string_view text = std::string_view(document).substr(document_at);
    size_t end = text.size();
    bool cuts_word = false;
    if (text.size() > options.max_document_bytes) std::tie(end, cuts_word) = cut(text);
    counts.cuts_in_words += cuts_word;
    piece = {.text = text.substr(0, end),
             .begins_document = document_at == 0,
             .ends_document = end == text.size()};
    counts.bytes += end;
    counts.documents += piece.ends_document;
    document_at += end;
    return true;
  }

  /// Parses the next line into `document`, which stays empty for one that is left out.
  bool read_line() {
    size_t end = 0;
    while ((end = rest().find('\n', end)) == std::string_view::npos && !at_end) {
      end = rest().size();
      if (end > kMaxLineBytes)
        throw Error(ExitCode::kBadData,
                    {.what = cat("a line of more than ", kMaxLineBytes, " bytes"),
                     .where = cat(where, ":", line),
                     .remedy = "one JSON object a line is expected"});
      fill(end + 1);
    }
    if (rest().empty()) return false;
    const std::string_view text = rest().substr(0, end);
    document.clear();
    document_at = 0;
    if (const auto checked = is_blank(text) ? std::optional(text) : check(text); !checked) {
      ++counts.skipped_documents;
    } else if (!is_blank(*checked)) {
      document = json_string_field(*checked, options.json_field, cat(where, ":", line));
      if (document.find('\0') != document.npos)
        throw Error(ExitCode::kBadData, {.what = cat("a NUL byte in \"", options.json_field, "\""),
                                         .where = cat(where, ":", line),
                                         .remedy = "is this binary data?"});
      if (is_blank(document)) {
        ++counts.blank_documents;
        document.clear();
      }
    }
    consume(std::min(text.size() + 1, rest().size()));
    return true;
  }

  TextOptions options;
  BorderRule last_border;
  std::vector<fs::path> files;
  bool replaces, skips;
  Counts counts;
  std::vector<CorpusSource> sources;

  size_t next_file = 0;
  std::optional<InputStream> stream;
  std::string where;  ///< the file's name in errors
  bool is_jsonl = false;
  std::string buffer;  ///< of the file; consumed up to `used`
  size_t used = 0;
  uint64_t offset = 0, line = 1;  ///< in the file, of rest()
  bool at_end = false;            ///< nothing follows the buffer
  bool at_line_start = true;      ///< rest() begins a line

  bool inside_document = false;  ///< of a .txt: the last piece did not end it
  bool skipping = false;         ///< the rest of this document is left out
  uint64_t document_bytes = 0;   ///< of it given so far
  std::string repaired;

  std::string document;  ///< of a .jsonl line; given up to `document_at`
  size_t document_at = 0;
};

TextSource::TextSource(const std::vector<std::string>& inputs,
                       const TextOptions& options,
                       BorderRule last_border)
    : impl_(std::make_unique<Impl>(inputs, options, std::move(last_border))) {}
TextSource::~TextSource() = default;

bool TextSource::next(TextPiece& piece) { return impl_->next(piece); }
const TextSource::Counts& TextSource::counts() const { return impl_->counts; }
const std::vector<CorpusSource>& TextSource::sources() const { return impl_->sources; }

}  // namespace kvsmith
