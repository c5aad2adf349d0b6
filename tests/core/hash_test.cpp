#include "core/hash.h"

#include <string>

#include <gtest/gtest.h>

#include "core/files.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_directory.h"

namespace kvsmith {
namespace {

TEST(Hash, Sha256IsThatOfTheStandard) {
  // FIPS 180-2, appendix B.
  const struct {
    std::string text, hash;
  } cases[] = {
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {std::string(1'000'000, 'a'),
       "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
  };
  for (const auto& [text, hash] : cases) EXPECT_EQ(sha256(text), hash) << text.substr(0, 60);
}

TEST(Hash, PiecesGiveTheHashOfTheWhole) {
  const std::string text(1000, 'x');
  for (const size_t piece : {1, 7, 64, 999}) {
    Sha256 hash;
    for (size_t at = 0; at < text.size(); at += piece) {
      const std::string part = text.substr(at, piece);
      hash.update(part.data(), part.size());
    }
    EXPECT_EQ(hash.hex(), sha256(text)) << "pieces of " << piece;
  }
}

TEST(Hash, AFileHasTheHashOfItsContent) {
  const TemporaryDirectory directory;
  const std::string content(3'000'000, '\x7f');
  write_file(directory / "file", content);
  EXPECT_EQ(sha256_of_file(directory / "file"), sha256(content));
  expect_error([&] { sha256_of_file(directory / "none"); }, ExitCode::kMissingInput, "none");
}

TEST(Hash, Xxh3OfNothingIsTheOneOfTheSpecification) {
  const auto [low, high] = xxh3_128("", 0);
  EXPECT_EQ(high, 0x99aa06d3014798d8U);
  EXPECT_EQ(low, 0x6001c324468d497fU);
}

TEST(Hash, Xxh3SeesEveryBit) {
  std::string block(300, '\0');
  const auto before = xxh3_128(block.data(), block.size());
  for (size_t bit = 0; bit < 8 * block.size(); ++bit) {
    block[bit / 8] = static_cast<char>(1U << bit % 8);
    EXPECT_NE(xxh3_128(block.data(), block.size()), before) << "bit " << bit;
    block[bit / 8] = '\0';
  }
}

}  // namespace
}  // namespace kvsmith
