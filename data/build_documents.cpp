#include "data/build_documents.h"

#include <algorithm>
#include <string>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/random.h"
#include "core/text.h"

namespace kvsmith {

void BuildDocuments::begin(bool is_valid_input) {
  // Only documents to train on are counted: giving validation texts changes nothing else.
  is_valid_ = is_valid_input ||
              (options_.valid_fraction > 0 && uniform(options_.seed, "validation document",
                                                      stats.documents) < options_.valid_fraction);
}

void BuildDocuments::append(std::span<const int32_t> ids,
                            uint64_t text_bytes,
                            std::span<const uint8_t> learnt) {
  writer_.append(split(), ids, learnt);
  text_bytes_ += text_bytes;
  stats.text_bytes += text_bytes;
  stats.tokens += ids.size();
}

void BuildDocuments::end() {
  writer_.end_document(split(), std::exchange(text_bytes_, 0));
  (is_valid_ ? valid_ : train_)++;
  ++stats.documents;
}

void BuildDocuments::report() {
  stats.seconds = std::chrono::duration<double>(Clock::now() - begin_).count();
  if (!on_progress_ || stats.seconds < next_report_) return;
  next_report_ = stats.seconds + 0.2;
  on_progress_(stats);
}

void BuildDocuments::expect_complete() {
  const bool wants_valid = options_.valid_fraction > 0 || !options_.valid_inputs.empty();
  if (train_ > 0 && (valid_ > 0 || !wants_valid)) return;
  const std::string where = join(train_ == 0 ? options_.train_inputs : options_.valid_inputs);
  if (options_.valid_fraction == 0 || train_ + valid_ == 0)
    throw Error(ExitCode::kBadData,
                {.what = "0 documents", .where = where, .remedy = "give inputs with text"});
  throw Error(ExitCode::kBadData,
              {.what = cat("of ", train_ + valid_, " documents ", train_, " fell to \"train\" and ",
                           valid_, " to \"valid\""),
               .where = join(options_.train_inputs),
               .remedy = "give validation files instead of a fraction, or a document separator"});
}

CorpusInfo corpus_info(const std::filesystem::path& path, const Tokenizer& tokenizer) {
  return {.vocab_size = tokenizer.vocab_size(),
          .bos_id = tokenizer.bos_id(),
          .eos_id = tokenizer.eos_id(),
          .tokenizer_name = path.filename().string(),
          .tokenizer_sha256 = tokenizer.sha256(),
          .tokenizer_model = tokenizer.bytes(),
          .sources = {}};
}

int threads_of(const CorpusBuild& options) {
  if (options.threads > 0) return options.threads;
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace kvsmith
