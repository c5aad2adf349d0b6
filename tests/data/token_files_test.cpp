#include "data/token_files.h"

#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/hash.h"
#include "core/text.h"
#include "tests/data/small_tokenizer.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

using Documents = std::vector<std::vector<int32_t>>;

template <class T>
std::string packed(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

std::string llm_c(int32_t magic, int32_t version, int32_t count, const std::string& tokens) {
  std::vector<int32_t> header(256);
  header[0] = magic, header[1] = version, header[2] = count;
  return packed(header) + tokens;
}

struct Index {
  std::string magic{"MMIDIDX\0\0", 9};
  uint64_t version = 1;
  uint8_t type = 8;
  std::vector<int32_t> lengths{2, 3, 1};
  std::vector<int64_t> places{0, 4, 10};
  std::vector<int64_t> documents{0, 2, 3};
  uint64_t sequences = 3, borders = 3;

  std::string bytes() const {
    return magic + packed<uint64_t>({version}) + packed<uint8_t>({type}) +
           packed<uint64_t>({sequences, borders}) + packed(lengths) + packed(places) +
           packed(documents);
  }
};

class TokenFileTest : public testing::Test {
 protected:
  Documents read(const std::string& bytes, const TokenFileOptions& options = {.vocab_size = 100}) {
    write_text(folder / "a.bin", bytes);
    TokenFile file(folder / "a.bin", options);
    format = file.format();
    Documents documents;
    for (std::vector<int32_t> ids; file.next(ids);) documents.push_back(ids);
    return documents;
  }

  TemporaryDirectory folder;
  std::string format;
};

const std::string kTokens = packed<uint16_t>({7, 8, 9, 7, 10, 7});

TEST_F(TokenFileTest, ReadsLlmC) {
  EXPECT_EQ(read(llm_c(20240520, 1, 6, kTokens)), (Documents{{7, 8, 9, 7, 10, 7}}));
  EXPECT_EQ(format, "llm.c");
  EXPECT_EQ(read(llm_c(20240801, 7, 2, packed<uint32_t>({70000, 1})), {.vocab_size = 128256}),
            (Documents{{70000, 1}}));
}

TEST_F(TokenFileTest, ReadsNanoGptAndCutsAtKnownBorders) {
  EXPECT_EQ(read(kTokens), (Documents{{7, 8, 9, 7, 10, 7}}));
  EXPECT_EQ(format, "nanoGPT");
  EXPECT_EQ(read(kTokens, {.vocab_size = 100, .bos_id = 7}), (Documents{{7, 8, 9}, {7, 10}, {7}}));
  EXPECT_EQ(read(kTokens, {.vocab_size = 100, .eos_id = 7}), (Documents{{7}, {8, 9, 7}, {10, 7}}));
}

TEST_F(TokenFileTest, VeryLongDocumentsAreCutAndNothingIsLost) {
  std::vector<uint16_t> tokens((size_t{1} << 20) + 70000);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<uint16_t>(i % 65521);
  const Documents documents = read(packed(tokens), {.vocab_size = 65536});
  ASSERT_EQ(documents.size(), 2);
  EXPECT_EQ(documents[0].size(), size_t{1} << 20);
  size_t i = 0;
  for (const auto& document : documents)
    for (const int32_t id : document) ASSERT_EQ(id, tokens[i++]);
  EXPECT_EQ(i, tokens.size());
}

TEST_F(TokenFileTest, ReadsMegatronByEitherName) {
  write_text(folder / "a.idx", Index{}.bytes());
  const Documents expected{{7, 8, 9, 7, 10}, {7}};
  EXPECT_EQ(read(kTokens), expected);
  EXPECT_EQ(format, "Megatron");
  TokenFile file(folder / "a.idx", {.vocab_size = 100});
  std::vector<int32_t> ids;
  EXPECT_TRUE(file.next(ids));
  EXPECT_EQ(ids, expected[0]);
  ASSERT_EQ(file.sources().size(), 2);
  EXPECT_EQ(file.sources()[0].sha256, sha256(kTokens));
  EXPECT_EQ(file.sources()[1].name, "a.idx");
}

TEST_F(TokenFileTest, FilesThatLieAreRefused) {
  const struct {
    std::string bytes, error;
  } cases[] = {
      {llm_c(20240520, 1, 7, kTokens), "the header says 7 tokens of 2 bytes, but 12 bytes follow"},
      {llm_c(20240520, 1, -1, kTokens), "the header says -1 tokens"},
      {llm_c(20240520, 2, 6, kTokens), "llm.c version 2, expected 1"},
      {llm_c(20240801, 1, 6, kTokens), "llm.c version 1, expected 7"},
      {llm_c(20240801, 7, 1, packed<uint32_t>({0xFFFFFFFF})), "token 0 is 4294967295, outside"},
      {llm_c(20240520, 1, 0, "").substr(0, 500), "an llm.c header of 500 bytes"},
      {llm_c(20240520, 1, 0, ""), "no tokens"},
      {"abc", "no whole number of uint16"},
      {"", "no tokens"},
      {packed<uint16_t>({1, 2, 100}), "token 2 is 100, outside the vocabulary of 100"}};
  for (const auto& [bytes, error] : cases)
    expect_error([&] { read(bytes); }, ExitCode::kBadData, error);
}

TEST_F(TokenFileTest, IndicesThatLieAreRefused) {
  const auto with = [](auto change) {
    Index index;
    change(index);
    return index.bytes();
  };
  const struct {
    std::string index, error;
  } cases[] = {
      {with([](Index& i) { i.magic[0] = 'X'; }), "does not begin with MMIDIDX"},
      {with([](Index& i) { i.version = 2; }), "version 2, expected 1"},
      {with([](Index& i) { i.type = 6; }), "token type 6"},
      {with([](Index& i) { i.type = 4; }), "sequence 1 is at byte 4, expected 8"},
      {with([](Index& i) { i.sequences = 1000; }),
       "1000 sequences and 3 document borders do not fit"},
      {with([](Index& i) { i.sequences = UINT64_MAX / 12 + 2; }), "do not fit"},
      {with([](Index& i) { i.lengths[1] = -3; }), "sequence 1 has -3 tokens"},
      {with([](Index& i) { i.lengths[2] = 2; }), "has 12 bytes, but its index says 7 tokens"},
      {with([](Index& i) { i.documents[1] = 4; }), "a document begins at sequence 4"},
      {with([](Index& i) { i.documents = {0, 2, 1}; }),
       "a document begins at sequence 1 after one at 2"},
      {Index{}.bytes().substr(0, 20), "only 20 bytes"},
      {Index{}.bytes().substr(0, 90), "do not fit"}};
  for (const auto& [index, error] : cases) {
    write_text(folder / "a.idx", index);
    expect_error([&] { read(kTokens); }, ExitCode::kBadData, error);
  }
}

TEST_F(TokenFileTest, NamesTellTokenFiles) {
  EXPECT_TRUE(TokenFile::is_named_by("x/a.bin") && TokenFile::is_named_by("a.idx"));
  EXPECT_FALSE(TokenFile::is_named_by("a.txt"));
  expect_error([&] { TokenFile(folder / "none.bin", {.vocab_size = 1}); }, ExitCode::kMissingInput,
               "none.bin");
}

}  // namespace
}  // namespace kvsmith
