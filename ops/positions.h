#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace kvsmith {

/// A run of consecutive text positions.
struct Span {
  int64_t first = 0, count = 0;

  int64_t end() const { return first + count; }
  bool operator==(const Span&) const = default;
};

/// Where the tokens of a batch stand in their texts. The host knows the layout, so choosing a fast
/// path or a write address never waits for a device.
class Positions {
 public:
  /// Every sequence holds positions [first, first + count).
  static Positions range(int64_t first, int64_t count, at::Device device = at::kCPU);
  /// Sequence b holds positions spans[b], padded at the end to the longest span.
  static Positions ragged(std::vector<Span> spans, at::Device device = at::kCPU);
  /// Packed documents: `at` counts from 0 in each document, `segments` tells documents apart.
  /// Both [batch, seq], int64 and int32. Only for a memory that lives for one step.
  static Positions packed(at::Tensor at, at::Tensor segments);
  /// Rows in any order, such as those of a ring. at: [batch|1, rows] int64, or where key/value
  /// heads keep different rows [batch|1, kv_heads, rows]; -1 marks an empty row.
  static Positions scattered(at::Tensor at);
  /// Rows at `first` followed by rows at `second`.
  static Positions joined(const Positions& first, const Positions& second);

  /// [batch|1, seq] int64, of scattered rows also [batch|1, kv_heads, seq]; -1 marks padding.
  const at::Tensor& at() const { return at_; }
  /// at() as [batch|1, kv_heads|1, seq].
  at::Tensor by_head() const;
  /// [batch, seq] int32, or undefined where a sequence is one text.
  const at::Tensor& segments() const { return segments_; }
  /// The token at index `t` of each sequence; not for packed positions.
  Positions token(int64_t t) const;
  bool is_range() const { return uniform_; }
  bool is_packed() const { return segments_.defined(); }
  /// Positions are runs, so that span() and end() tell them.
  bool has_spans() const { return !spans_.empty(); }
  /// The span of sequence `b`; only with has_spans().
  const Span& span(int64_t b) const { return spans_[uniform_ ? 0 : static_cast<size_t>(b)]; }
  int64_t seq() const { return at_.size(-1); }
  /// One past the highest position of any sequence; only with has_spans().
  int64_t end() const;

  /// Cosines and sines of the rotary angles, each [batch|1, kv_heads|1, seq, head_dim / 2] fp32 in
  /// half-split layout (RoFormer, arXiv:2104.09864); computed once and shared by the layers of a
  /// step.
  std::pair<at::Tensor, at::Tensor> rotary(double theta, int64_t head_dim) const;

 private:
  friend struct Visibility;  // keeps its masks beside the tables
  struct RotaryTable;
  struct Mask {
    Span span;        ///< of rows that run alike
    at::Tensor rows;  ///< of other rows
    int64_t window = 0, sinks = 0;
    bool strict = false;
    at::Tensor mask;
  };

  Positions(at::Tensor at, bool uniform, std::vector<Span> spans, at::Tensor segments = {});

  at::Tensor at_, segments_;
  std::vector<Span> spans_;
  bool uniform_ = false;
  std::shared_ptr<std::vector<RotaryTable>> tables_;
  std::shared_ptr<std::vector<Mask>> masks_;
};

}  // namespace kvsmith
