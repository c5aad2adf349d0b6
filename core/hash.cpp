#include "core/hash.h"

#include <vector>

#include <openssl/evp.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/error.h"
#include "core/files.h"

namespace kvsmith {
namespace {

void expect(int openssl_result) {
  if (openssl_result != 1) {
    throw Error(ExitCode::kInternal, {.what = "libcrypto refused to compute a SHA-256",
                                      .where = "",
                                      .remedy = "check its configuration (FIPS mode?)"});
  }
}

}  // namespace

struct Sha256::Impl {
  struct Free {
    void operator()(EVP_MD_CTX* used) const { EVP_MD_CTX_free(used); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> context{EVP_MD_CTX_new()};
};

Sha256::Sha256() : impl_(std::make_unique<Impl>()) {
  expect(impl_->context ? EVP_DigestInit_ex(impl_->context.get(), EVP_sha256(), nullptr) : 0);
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::update(const void* data, size_t bytes) {
  expect(EVP_DigestUpdate(impl_->context.get(), data, bytes));
}

std::string Sha256::hex() {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::array<unsigned char, 32> digest{};
  expect(EVP_DigestFinal_ex(impl_->context.get(), digest.data(), nullptr));
  std::string text;
  for (const unsigned byte : digest) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

std::string sha256(std::string_view bytes) {
  Sha256 hash;
  hash.update(bytes.data(), bytes.size());
  return hash.hex();
}

std::string sha256_of_file(const std::filesystem::path& path) {
  const InputFile file(path);
  std::vector<char> block(size_t{1} << 20);
  Sha256 hash;
  for (uint64_t at = 0;;) {
    const size_t got = file.read_some(at, block.data(), block.size());
    if (got == 0) return hash.hex();
    hash.update(block.data(), got);
    at += got;
  }
}

std::array<uint64_t, 2> xxh3_128(const void* data, size_t bytes) {
  const XXH128_hash_t hash = XXH3_128bits(data, bytes);
  return {hash.low64, hash.high64};
}

}  // namespace kvsmith
