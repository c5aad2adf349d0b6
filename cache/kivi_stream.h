#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace kvsmith {

/// Sequences [first, first + count) of a batch, in which a stream has equally many tokens.
struct Lane {
  int64_t first = 0, count = 0;
};

/// The keys or the values of one layer as KIVI stores them: tokens from 0 on as codes, then the
/// newest ones exactly. KiviRows tells the lengths of the texts and owns the rules of use.
class KiviStream {
 public:
  /// What one scale and zero serve.
  enum class Groups {
    kTokensOfChannel,  ///< `group` consecutive tokens: keys
    kChannelsOfToken,  ///< `group` neighbouring channels: values
  };

  /// A group has `group` elements of `bits` bits; at most `residual` tokens are exact, a multiple
  /// of `group`. The width of kChannelsOfToken is one too.
  KiviStream(Groups groups, int64_t batch, int64_t bits, int64_t group, int64_t residual);

  /// Storage for `rows` quantised tokens, a multiple of `group`, beside the exact ones. `like`, any
  /// [batch, kv_heads, seq, width], tells the shape and the type of exact tokens.
  void reserve(int64_t rows, const at::Tensor& like);
  /// Adds `fresh`, [lane.count, kv_heads, seq, width], to texts of `length` tokens.
  void append(const Lane& lane, int64_t length, const at::Tensor& fresh);
  /// The `length` tokens of the lane into `out`, [lane.count, kv_heads, length, width].
  void read(const Lane& lane, int64_t length, const at::Tensor& out) const;
  /// Forgets all tokens.
  void clear();
  /// A copy with storage of its own.
  KiviStream copy() const;

  /// Tokens of each sequence that are codes.
  const std::vector<int64_t>& quantised() const { return quantised_; }
  /// Exact rows, [batch, kv_heads, residual, width]; token p is in row p % residual.
  const at::Tensor& exact() const { return exact_; }
  /// Bytes that texts of these lengths occupy.
  int64_t bytes_used(const std::vector<int64_t>& lengths) const;
  /// Those of them that hold scales and zero points.
  int64_t metadata_bytes() const;
  /// Bytes of all storage.
  int64_t bytes_reserved() const;

 private:
  int64_t quantised_of(int64_t length) const;
  at::Tensor packable(const at::Tensor& tokens) const;
  at::Tensor grouped(const at::Tensor& tokens) const;
  at::Tensor cells(const at::Tensor& storage, const Lane& lane, int64_t first, int64_t end) const;
  at::Tensor gather(
      const Lane& lane, int64_t length, const at::Tensor& fresh, int64_t first, int64_t end) const;
  void quantise(const Lane& lane, int64_t first, const at::Tensor& tokens);

  Groups groups_;
  int64_t bits_, group_, residual_;
  int64_t capacity_ = 0;             ///< quantised tokens that storage has room for
  std::vector<int64_t> quantised_;   ///< per sequence
  at::Tensor codes_, scale_, zero_;  ///< [batch, kv_heads, capacity / tokens of a cell, ...]
  at::Tensor exact_;
};

}  // namespace kvsmith
