#include "tools/text_sample.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include <CLI/CLI.hpp>

#include "core/error.h"
#include "core/files.h"
#include "core/text.h"
#include "tools/console.h"

namespace kvsmith {
namespace {

/// A file's first `bytes`, but for a last character that may not be whole.
std::string head_of(const std::filesystem::path& path, uint64_t bytes) {
  const InputFile file(path);
  std::string text(std::min(bytes, file.size()), '\0');
  file.read(0, text.data(), text.size());
  if (text.size() == file.size()) return text;
  const auto is_inside = [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) == 0x80U; };
  while (!text.empty() && is_inside(text.back())) text.pop_back();
  if (!text.empty()) text.pop_back();
  return text;
}

}  // namespace

void add_text_flags(CLI::App& verb, TextSample& sample, const std::string& name, const char* help) {
  verb.add_option(name, sample.path, help);
  verb.add_option(name + "-tokens", sample.tokens, "tokens of it to read")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 30))
      ->each([&sample](const std::string&) { sample.has_tokens = true; })
      ->capture_default_str();
  verb.add_option(name + "-context", sample.context,
                  "tokens a window; default: or max_position_embeddings where that is less")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 24))
      ->each([&sample](const std::string&) { sample.has_context = true; })
      ->capture_default_str();
}

void limit_context(TextSample& sample, int64_t longest, Console& console) {
  if (sample.context <= longest) return;
  if (!sample.has_context) {
    sample.context = longest;
    return;
  }
  console.note(cat("context ", sample.context, " is longer than the model's ",
                   "max_position_embeddings, ", longest, ": later positions are new to it"));
}

std::vector<int32_t> read_sample(const std::optional<Tokenizer>& tokenizer,
                                 const TextSample& sample,
                                 const std::string& problem) {
  if (!tokenizer && !problem.empty()) {
    throw Error(ExitCode::kConfig, {"the model's tokenizer cannot be used: " + problem,
                                    sample.path.string(), "leave the text out"});
  }
  if (!tokenizer) {
    throw Error(ExitCode::kConfig,
                {"the model has no tokenizer to read it with", sample.path.string(),
                 "put its tokenizer.json or tokenizer.model beside the weights"});
  }
  constexpr uint64_t kBytesPerToken = 8;  // more than texts have; what is too much is cut
  const auto wanted = static_cast<size_t>(sample.tokens);
  std::vector<int32_t> ids;
  if (tokenizer->bos_id() >= 0) ids.push_back(tokenizer->bos_id());
  tokenizer->encode_to(ids, head_of(sample.path, wanted * kBytesPerToken));
  if (ids.size() > wanted) ids.resize(wanted);
  if (ids.size() < 2)
    throw Error(ExitCode::kBadData, {"less than two tokens", sample.path.string(), ""});
  return ids;
}

std::string describe(const TextScore& score, const TextSample& sample) {
  std::array<char, 64> figure{};
  std::snprintf(figure.data(), figure.size(), "%.2f", score.perplexity());
  const auto verdict = score.looks_like_language_model();
  std::string judged;
  if (verdict == true) judged = ": looks like a language model";
  if (verdict == false)
    judged = cat(": NOT a language model, token frequencies alone give ",
                 std::lround(std::exp(score.unigram_nll)));
  return cat("perplexity ", figure.data(), " over ", score.tokens, " tokens of ",
             sample.path.filename().string(), ", context ", sample.context, judged);
}

}  // namespace kvsmith
