#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace kvsmith {

/// SHA-256 in lower-case hex: the identity of files, configurations and tokenizers.
std::string sha256(std::string_view bytes);
std::string sha256_of_file(const std::filesystem::path& path);

/// SHA-256 of content that arrives in pieces.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void update(const void* data, size_t bytes);
  std::string hex();  ///< ends the hash; call once

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// XXH3-128 of a block as {low64, high64}: cheap enough to check on every read.
std::array<uint64_t, 2> xxh3_128(const void* data, size_t bytes);

}  // namespace kvsmith
