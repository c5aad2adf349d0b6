#include "data/tokenizer_training.h"

#include <algorithm>
#include <sstream>
#include <string_view>
#include <thread>

#include <sentencepiece_trainer.h>

#include "core/error.h"
#include "core/files.h"
#include "core/random.h"
#include "core/text.h"
#include "data/sentencepiece_model.h"
#include "data/text_source.h"
#include "data/utf8.h"

namespace kvsmith {
namespace {

constexpr size_t kMaxLineBytes = 4096;  // the trainer drops longer ones
constexpr int64_t kSpecialPieces = 3, kBytePieces = 256;

/// Keeps the lines with the smallest keys of a hash of (seed, line number), as many as fit.
class LineSample {
 public:
  LineSample(uint64_t seed, uint64_t max_bytes) : seed_(seed), max_bytes_(max_bytes) {}

  void add(std::string_view line) {
    const uint64_t index = lines_++;
    const uint64_t key = hash_of(seed_, "line of tokenizer training", index);
    if (key > largest_key_) return;
    bytes_ += line.size();
    heap_.push_back({key, index, std::string(line)});
    std::ranges::push_heap(heap_, {}, &Line::key);
    while (bytes_ > max_bytes_ && heap_.size() > 1) {
      std::ranges::pop_heap(heap_, {}, &Line::key);
      largest_key_ = heap_.back().key;
      bytes_ -= heap_.back().text.size();
      heap_.pop_back();
    }
  }

  /// In the order of the texts.
  std::vector<std::string> take() {
    std::ranges::sort(heap_, {}, &Line::index);
    std::vector<std::string> lines;
    lines.reserve(heap_.size());
    for (Line& line : heap_) lines.push_back(std::move(line.text));
    heap_.clear();
    return lines;
  }

 private:
  struct Line {
    uint64_t key, index;
    std::string text;
  };
  uint64_t seed_, max_bytes_;
  uint64_t lines_ = 0, bytes_ = 0, largest_key_ = UINT64_MAX;
  std::vector<Line> heap_;
};

std::vector<std::string> sample_lines(const TokenizerTraining& options) {
  LineSample sample(options.seed, options.max_bytes);
  TextSource source(options.inputs, {.json_field = options.json_field});
  for (TextPiece piece; source.next(piece);) {
    std::string_view rest = piece.text;
    while (!rest.empty()) {
      const size_t newline = std::min(rest.find('\n'), rest.size());
      const size_t end = newline > kMaxLineBytes ? utf8_border(rest, kMaxLineBytes) : newline;
      if (end > 0) sample.add(rest.substr(0, end));
      rest.remove_prefix(std::min(end == newline ? end + 1 : end, rest.size()));
    }
  }
  return sample.take();
}

class Lines : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(std::vector<std::string> lines) : lines_(std::move(lines)) {}
  bool done() const override { return at_ == lines_.size(); }
  void Next() override { ++at_; }
  const std::string& value() const override { return lines_[at_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  std::vector<std::string> lines_;
  size_t at_ = 0;
};

[[noreturn]] void refuse(const TokenizerTraining& options, const std::string& reason) {
  // "... Vocabulary size is smaller than required_chars. 900 vs 2983. ..."
  constexpr std::string_view kTooSmall = "required_chars. ";
  std::string what = cat("SentencePiece could not train: ", reason);
  std::string remedy = "check that the inputs are texts";
  if (const size_t at = reason.find(kTooSmall); at != reason.npos) {
    std::istringstream numbers(reason.substr(at + kTooSmall.size()));
    std::string given, versus;
    uint64_t needed = 0;
    numbers >> given >> versus >> needed;
    what = cat("the characters of the texts alone need ", needed, " pieces, more than ",
               options.vocab_size);
    remedy = cat("choose a --vocab-size of more than ", needed);
  }
  throw Error(ExitCode::kBadData, {.what = what, .where = join(options.inputs), .remedy = remedy});
}

}  // namespace

void train_tokenizer(const TokenizerTraining& options, const std::filesystem::path& output) {
  if (options.vocab_size <= kSpecialPieces + kBytePieces)
    throw Error(ExitCode::kConfig,
                {.what = cat("a vocabulary of ", options.vocab_size, " pieces"),
                 .where = "--vocab-size",
                 .remedy = cat("3 special and 256 byte pieces are always there; choose more than ",
                               kSpecialPieces + kBytePieces)});
  Lines lines(sample_lines(options));
  if (lines.done())
    throw Error(ExitCode::kBadData, {.what = "no text to train a tokenizer on",
                                     .where = join(options.inputs),
                                     .remedy = "give files with text"});

  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(
      {{"model_type", "bpe"},
       {"vocab_size", std::to_string(options.vocab_size)},
       {"byte_fallback", "true"},
       {"normalization_rule_name", "identity"},
       {"remove_extra_whitespaces", "false"},
       {"add_dummy_prefix", "false"},
       {"split_digits", "true"},
       {"allow_whitespace_only_pieces", "true"},
       {"character_coverage", "0.9999"},
       {"max_sentence_length", std::to_string(kMaxLineBytes)},
       {"unk_id", "0"},
       {"bos_id", "1"},
       {"eos_id", "2"},
       {"pad_id", "-1"},
       // A vocabulary that cannot be filled is reported below, with its size, instead.
       {"hard_vocab_limit", "false"},
       {"num_threads", std::to_string(options.threads > 0 ? options.threads : cores)},
       {"minloglevel", "4"}},
      &lines, &model);
  if (!status.ok()) refuse(options, status.ToString());

  const auto pieces = std::ssize(parse_sentencepiece_model(model, output.string()).pieces);
  if (pieces < options.vocab_size)
    throw Error(
        ExitCode::kBadData,
        {.what = cat("the texts give ", pieces, " pieces, not ", options.vocab_size),
         .where = join(options.inputs),
         .remedy = cat("choose a --vocab-size of at most ", pieces, ", or give more text")});
  write_file(output, without_thread_count(model));
}

}  // namespace kvsmith
