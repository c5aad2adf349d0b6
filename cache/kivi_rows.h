#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cache/kivi_stream.h"
#include "models/memory.h"

namespace kvsmith {

/// How KiviRows stores tokens. kivi_needs() tells what these must be.
struct KiviOptions {
  int64_t bits_k = 2, bits_v = 2;  ///< of a quantised element of keys and values: 2, 4 or 8
  int64_t group = 32;              ///< elements that share scale and zero: a multiple of 8 / bits
  int64_t residual = 128;          ///< R, the most tokens kept exactly: a multiple of `group`
  /// New tokens attend to what is stored of them and before them. Otherwise to new tokens as they
  /// are, whatever their number, as in the paper: a prompt in one write then attends to exact rows
  /// only, and results depend on how a text is split into writes.
  bool quantise_before_attend = true;
};

/// What must be otherwise in `options`, or in the width of values: "values of a multiple of 32
/// elements, not 80"; empty where all is well.
std::string kivi_needs(const KiviOptions& options, int64_t value_width);

/// KIVI (arXiv:2402.02750). Of T tokens, keys are quantised up to the last multiple of R in groups
/// of consecutive tokens of one channel, values all but the last R in groups of channels of one
/// token; the rest is exact, in the type it is written in. Codes are those of min_max_codes(),
/// which says what becomes of infinities and NaN. Streams are keys, then values; either may be
/// undefined. What is stored does not depend on how a text is split into writes, or on its batch;
/// with quantise_before_attend, neither does what is read. Sequences of different lengths are
/// handled one by one.
class KiviRows final : public RowMemory {
 public:
  /// Throws 78 where kivi_needs() has something to say of `options`.
  KiviRows(const CacheOptions& options, const KiviOptions& kivi);

  /// Decodes everything.
  Rows read() const override;
  /// Throws 70 where a position to forget has been quantised. Keys go on as if the forgotten tokens
  /// had never been; of values, those that were quantised by then stay so.
  void rewind(const Positions& positions) override;
  /// Positions must follow what each sequence has, and widths satisfy kivi_needs(); throws 70.
  Rows write(const Positions& positions, std::vector<at::Tensor> fresh) override;
  /// Of several tokens, as they are once all of them are written.
  std::vector<at::Tensor> as_stored(const Positions& positions,
                                    std::vector<at::Tensor> fresh) const override;
  int64_t bytes_used() const override;
  int64_t bytes_reserved() const override;
  ByteLedger ledger() const override;
  void clear() override;
  std::unique_ptr<Memory> clone() const override;

 private:
  void prepare(const Positions& positions, const std::vector<at::Tensor>& fresh);
  bool uniform() const;

  CacheOptions options_;
  KiviOptions kivi_;
  std::vector<int64_t> lengths_;                    ///< tokens per sequence
  std::vector<std::optional<KiviStream>> streams_;  ///< none before the first write
  mutable int64_t transient_peak_ = 0;              ///< bytes of decoded copies
};

/// Bytes that `tokens` tokens of one sequence occupy in one layer, scales and exact rows included;
/// a width is 0 where there is no such stream. `element_bytes` is the size of an exact element.
int64_t kivi_bytes(const KiviOptions& options,
                   int64_t kv_heads,
                   int64_t key_width,
                   int64_t value_width,
                   int64_t tokens,
                   int64_t element_bytes);

}  // namespace kvsmith
