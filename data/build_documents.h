#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>

#include "data/build.h"
#include "data/corpus.h"
#include "data/tokenizer.h"

namespace kvsmith {

using BuildProgress = std::function<void(const CorpusBuildStats&)>;

/// Takes the documents of a corpus in order and in pieces, deals them out to its splits and counts.
class BuildDocuments {
 public:
  BuildDocuments(const CorpusBuild& options, CorpusWriter& writer, const BuildProgress& on_progress)
      : options_(options), writer_(writer), on_progress_(on_progress) {}

  /// Chooses the split of the next documents.
  void begin(bool is_valid_input);
  /// `learnt`: of a corpus that marks what is to be learnt, else empty.
  void append(std::span<const int32_t> ids,
              uint64_t text_bytes,
              std::span<const uint8_t> learnt = {});
  void end();
  /// Tells the progress, if it is time.
  void report();
  /// Throws Error (65) when a split that was asked for stayed empty.
  void expect_complete();

  CorpusBuildStats stats;

 private:
  using Clock = std::chrono::steady_clock;
  const char* split() const { return is_valid_ ? "valid" : "train"; }

  const CorpusBuild& options_;
  CorpusWriter& writer_;
  const BuildProgress& on_progress_;
  Clock::time_point begin_ = Clock::now();
  double next_report_ = 0;
  uint64_t train_ = 0, valid_ = 0;
  bool is_valid_ = false;    ///< the current document
  uint64_t text_bytes_ = 0;  ///< of it so far
};

/// Of a corpus whose tokens are those of `tokenizer`, loaded from `path`.
CorpusInfo corpus_info(const std::filesystem::path& path, const Tokenizer& tokenizer);

/// Threads that a build uses.
int threads_of(const CorpusBuild& options);

}  // namespace kvsmith
