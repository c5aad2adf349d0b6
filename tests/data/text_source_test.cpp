#include "data/text_source.h"

#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>

#include "core/hash.h"
#include "core/text.h"
#include "tests/data/small_tokenizer.h"
#include "tests/support/child.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

using Documents = std::vector<std::string>;

std::string gzip(const std::string& text) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

class TextSourceTest : public testing::Test {
 protected:
  std::string put(const std::string& name, const std::string& content) {
    std::filesystem::create_directories((folder / name).parent_path());
    write_text(folder / name, content);
    return folder / name;
  }

  /// All documents; checks that pieces begin and end as they must and fit.
  Documents read(const std::vector<std::string>& inputs, const TextOptions& options = {}) {
    TextSource source(inputs, options);
    Documents documents;
    bool inside = false;
    pieces = 0;
    for (TextPiece piece; source.next(piece); ++pieces) {
      EXPECT_NE(piece.begins_document, inside);
      EXPECT_LE(piece.text.size(), options.max_document_bytes * (inside_repair ? 3 : 1));
      if (piece.begins_document) documents.emplace_back();
      documents.back() += piece.text;
      inside = !piece.ends_document;
      if (piece.drops_document) documents.pop_back();
    }
    EXPECT_FALSE(inside);
    counts = source.counts();
    sources = source.sources();
    return documents;
  }

  TemporaryDirectory folder;
  TextSource::Counts counts;
  std::vector<CorpusSource> sources;
  int pieces = 0;
  bool inside_repair = false;
};

TEST_F(TextSourceTest, ATextFileIsOneDocumentByteForByte) {
  const std::string text = " \tfirst\r\n\n  second \u2028 e\u0301 \x01\n\n";
  EXPECT_EQ(read({put("a.txt", text)}), (Documents{text}));
  EXPECT_EQ(counts.documents, 1);
  EXPECT_EQ(counts.bytes, text.size());
}

TEST_F(TextSourceTest, OnlyAByteOrderMarkAtTheStartOfAFileIsLeftOut) {
  EXPECT_EQ(read({put("a.txt", "\uFEFFa\uFEFF")}), (Documents{"a\uFEFF"}));
  EXPECT_EQ(read({put("a.jsonl", "\uFEFF{\"text\": \"x\"}\n")}), (Documents{"x"}));
}

TEST_F(TextSourceTest, SeparatorLinesEndDocumentsAndBelongToNone) {
  const TextOptions options{.document_separator = "<|end|>"};
  const struct {
    std::string text;
    Documents documents;
  } cases[] = {{"a\n<|end|>\nb\n", {"a\n", "b\n"}},
               {"a\n<|end|>\r\nb\n<|end|>", {"a\n", "b\n"}},
               {"<|end|>\n\n<|end|>\n<|end|>\nb", {"b"}},
               {"a <|end|>\n<|end|> b\n", {"a <|end|>\n<|end|> b\n"}}};
  for (const auto& [text, documents] : cases)
    EXPECT_EQ(read({put("a.txt", text)}, options), documents);
}

TEST_F(TextSourceTest, LongDocumentsComeInPiecesWhateverTheLimitAndAreStillTheSame) {
  std::mt19937 random(5);
  for (int round = 0; round < 200; ++round) {
    Documents expected;
    std::string text;
    for (size_t n = 1 + random() % 5; n > 0; --n) {
      std::string document = "x";
      for (size_t i = random() % 200; i > 0; --i)
        document +=
            std::vector<std::string>{"a", " ", "  ", "\n", "日", "😀", "word", "--"}[random() % 8];
      expected.push_back(document + "\n");
      text += expected.back() + "---\n";
    }
    TextOptions options{.document_separator = "---"};
    options.max_document_bytes = 16 + random() % 100;
    const Documents got = read({put("a.txt", text)}, options);
    ASSERT_EQ(join(got, "|"), join(expected, "|")) << "limit " << options.max_document_bytes;
    std::string jsonl;
    for (const auto& document : expected) {
      std::string escaped;
      for (const char c : document) escaped += c == '\n' ? std::string("\\n") : std::string(1, c);
      jsonl += "{\"text\": \"" + escaped + "\"}\n";
    }
    ASSERT_EQ(join(read({put("a.jsonl", jsonl)}, options), "|"), join(expected, "|"));
  }
}

TEST_F(TextSourceTest, PiecesOfADocumentGiveTheIdsOfTheWhole) {
  const Tokenizer tokenizer = small_tokenizer();
  const std::string text = sample_text();
  TextOptions options;
  options.max_document_bytes = 200;
  TextSource source({put("a.txt", text)}, options);
  std::vector<int32_t> ids;
  for (TextPiece piece; source.next(piece);)
    tokenizer.encode_to(
        ids, piece.text,
        piece.begins_document ? Tokenizer::Begin::kText : Tokenizer::Begin::kInside);
  EXPECT_EQ(source.counts().cuts_in_words, 0);
  EXPECT_EQ(ids, tokenizer.encode(text));
}

TEST_F(TextSourceTest, LinesOfJsonAreDocuments) {
  const std::string lines =
      "{\"id\": 1, \"text\": \"a\\nb \\u00e9\", \"meta\": {\"text\": [1, \"no\"]}}\n"
      "\n"
      "{\"text\": \"\"}\r\n"
      "{\"text\": \"last \xF0\x9F\x98\x80\"}";
  EXPECT_EQ(read({put("a.jsonl", lines)}), (Documents{"a\nb é", "last 😀"}));
  EXPECT_EQ(counts.blank_documents, 1);
  EXPECT_EQ(read({put("b.jsonl", "{\"body\": \"x\"}\n")}, {.json_field = "body"}),
            (Documents{"x"}));
}

TEST_F(TextSourceTest, BadJsonNamesFileAndLine) {
  const struct {
    std::string line, error;
  } cases[] = {{"{\"text\": \"x\"", "malformed JSON"},
               {"{\"text\": \"x\"} 1", "malformed JSON"},
               {"[1]", "the line is an array"},
               {"\"x\"", "the line is a string"},
               {"{\"txt\": \"x\"}", "no field \"text\"; did you mean \"txt\""},
               {"{\"messages\": []}", "no field \"text\"; chats are built with --chats"},
               {"{\"text\": 5}", "\"text\" is a number, not a string"},
               {"{\"text\": {\"text\": \"x\"}}", "\"text\" is an object"},
               {"{\"text\": \"x\", \"text\": \"y\"}", "is there twice"},
               {"{\"text\": \"a\\u0000b\"}", "a NUL byte in \"text\""},
               {"{\"text\": \"\\ud800\"}", "malformed JSON"},
               {std::string(100000, '['), "the line is an array"}};
  for (const auto& [line, error] : cases) {
    const std::string path = put("a.jsonl", "{\"text\": \"ok\"}\n" + line + "\n");
    expect_error([&] { read({path}); }, ExitCode::kBadData, error);
    expect_error([&] { read({path}); }, ExitCode::kBadData, "a.jsonl:2: ");
  }
}

TEST_F(TextSourceTest, AnotherFieldThanTheOneAskedForIsNamed) {
  const auto path = put("a.jsonl", "{\"text\": \"x\"}\n");
  expect_error([&] { read({path}, {.json_field = "texts"}); }, ExitCode::kBadData,
               "no field \"texts\"; did you mean \"text\"?");
}

TEST_F(TextSourceTest, InvalidUtf8IsAnErrorWithLineAndByteOffset) {
  const std::string text = "\uFEFFone\ntwo\nth\xC3ree\n";
  expect_error([&] { read({put("a.txt", text)}); }, ExitCode::kBadData,
               "a.txt:3: invalid UTF-8 at byte 13; convert the file; `data build` also takes "
               "--invalid-utf8 replace or skip");
  TextOptions small;
  small.max_document_bytes = 16;
  const std::string longer = std::string(5, '\n') + std::string(1000, 'a') + "\xFF";
  expect_error([&] { read({put("a.txt", longer)}, small); }, ExitCode::kBadData,
               "a.txt:6: invalid UTF-8 at byte 1005");
  expect_error([&] { read({put("a.txt.gz", gzip(longer))}); }, ExitCode::kBadData,
               "byte 1005 of the unpacked text");
  expect_error([&] { read({put("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"\xC0\"}")}); },
               ExitCode::kBadData, "a.jsonl:2: invalid UTF-8 at byte 24");
}

TEST_F(TextSourceTest, InvalidUtf8IsReplacedOrSkippedOnRequestAndCounted) {
  const std::string path = put("a.txt", "a\xFF\xC3\n--\ngood\n--\nb\xE2\x82");
  EXPECT_EQ(read({path}, {.document_separator = "--", .invalid_utf8 = "replace"}),
            (Documents{"a\uFFFD\uFFFD\n", "good\n", "b\uFFFD"}));
  EXPECT_EQ(counts.replaced_sequences, 3);
  EXPECT_EQ(read({path}, {.document_separator = "--", .invalid_utf8 = "skip"}),
            (Documents{"good\n"}));
  EXPECT_EQ(counts.skipped_documents, 2);
  EXPECT_EQ(counts.documents, 1);
  EXPECT_EQ(counts.bytes, 5);
}

TEST_F(TextSourceTest, ALongDocumentThatTurnsBadIsDroppedWhole) {
  TextOptions options{.document_separator = "--", .invalid_utf8 = "skip"};
  options.max_document_bytes = 16;
  const std::string words = "some words and more words and then ";
  const std::string path = put("a.txt", words + "\xFF" + words + words + "\n--\ngood\n");
  EXPECT_EQ(read({path}, options), (Documents{"good\n"}));
  EXPECT_EQ(counts.skipped_documents, 1);
  EXPECT_EQ(counts.bytes, 5);
}

TEST_F(TextSourceTest, NulBytesAreRefusedUnderEveryOption) {
  for (const char* choice : {"error", "replace", "skip"})
    expect_error(
        [&] { read({put("a.txt", std::string("ab\nc\0d\xFF", 7))}, {.invalid_utf8 = choice}); },
        ExitCode::kBadData, "a.txt:2: a NUL byte at byte 4");
  expect_error([&] { read({put("a.txt", "x")}, {.invalid_utf8 = "ignore"}); }, ExitCode::kConfig,
               "invalid_utf8");
}

TEST_F(TextSourceTest, CompressedFilesReadAsTheirContent) {
  const std::string text = sample_text() + sample_text();
  EXPECT_EQ(read({put("a.txt.gz", gzip(text))}), (Documents{text}));
  EXPECT_EQ(read({put("a.txt.zst", zstd(text))}), (Documents{text}));
  EXPECT_EQ(read({put("b.txt.gz", gzip("one ") + gzip("two"))}), (Documents{"one two"}));
  EXPECT_EQ(read({put("b.txt.zst", zstd("one ") + zstd("two"))}), (Documents{"one two"}));
  EXPECT_EQ(read({put("c.jsonl.gz", gzip("{\"text\": \"x\"}\n"))}), (Documents{"x"}));
}

TEST_F(TextSourceTest, EveryTruncationOfACompressedFileIsAnError) {
  const std::string text = "some text that compresses; some text that compresses; some text";
  for (const bool gz : {true, false}) {
    const std::string whole = gz ? gzip(text) : zstd(text);
    for (size_t size = 0; size < whole.size(); ++size) {
      const std::string path = put(gz ? "a.txt.gz" : "a.txt.zst", whole.substr(0, size));
      expect_error([&] { read({path}); }, ExitCode::kBadData,
                   gz ? "gzip data is cut off" : "zstd data is cut off");
    }
    std::string bad = whole;
    bad[whole.size() - 2] ^= 1;
    EXPECT_THROW(read({put(gz ? "a.txt.gz" : "a.txt.zst", bad)}), Error)
        << "trailing checksum or data";
    expect_error([&] { read({put(gz ? "a.txt.gz" : "a.txt.zst", "plain text, not packed")}); },
                 ExitCode::kBadData, "damaged");
  }
}

TEST_F(TextSourceTest, RecordsNameSizeAndHashOfTheStoredFile) {
  const std::string stored = gzip("text");
  read({put("a.txt.gz", stored), put("b.txt", "x")});
  ASSERT_EQ(sources.size(), 2);
  EXPECT_EQ(sources[0].name, "a.txt.gz");
  EXPECT_EQ(sources[0].bytes, stored.size());
  EXPECT_EQ(sources[0].sha256, sha256(stored));
  EXPECT_EQ(sources[1].sha256, sha256("x"));
}

TEST_F(TextSourceTest, FoldersAndGlobsGiveSortedTextsOnly) {
  for (const char* name : {"d/b.txt", "d/a/z.jsonl", "d/a.txt.gz", "d/notes.md", "d/.hidden.txt",
                           "d/.git/x.txt", "d/c.jsonl.zst"})
    put(name, "x");
  const auto names = [&](const std::vector<std::string>& inputs) {
    std::string all;
    for (const auto& path : expand_inputs(inputs))
      all += std::filesystem::relative(path, folder.path()).string() + " ";
    return all;
  };
  EXPECT_EQ(names({folder / "d"}), "d/a/z.jsonl d/a.txt.gz d/b.txt d/c.jsonl.zst ");
  EXPECT_EQ(names({folder / "d/*.txt*", folder / "d/b.txt"}), "d/a.txt.gz d/b.txt d/b.txt ");
  EXPECT_EQ(expand_inputs({"-"}).front(), "-");
}

TEST_F(TextSourceTest, InputsThatAreNoTextsAreErrors) {
  std::filesystem::create_directories(folder / "empty");
  ASSERT_EQ(::mkfifo((folder / "pipe.txt").c_str(), 0600), 0);
  expect_error([&] { read({folder / "none.txt"}); }, ExitCode::kMissingInput, "none.txt");
  expect_error([&] { read({folder / "*.jsonl"}); }, ExitCode::kMissingInput, "*.jsonl");
  expect_error([&] { read({folder / "empty"}); }, ExitCode::kBadData, "no .txt or .jsonl files");
  expect_error([&] { read({put("a.pdf", "x")}); }, ExitCode::kBadData, "neither .txt nor .jsonl");
  expect_error([&] { read({folder / "pipe.txt"}); }, ExitCode::kBadData, "not a regular file");
}

TEST_F(TextSourceTest, AFileThatGrowsWhileBeingReadIsAnError) {
  const std::string path = put("a.txt", std::string(3 << 20, 'a'));
  TextOptions options;
  options.max_document_bytes = 1000;
  TextSource source({path}, options);
  TextPiece piece;
  ASSERT_TRUE(source.next(piece));
  write_text(path, std::string(4 << 20, 'a'));
  const auto read_all = [&] {
    while (source.next(piece)) continue;
  };
  expect_error(read_all, ExitCode::kBadData, "changed while it was being read");
}

TEST_F(TextSourceTest, OneLineOfManyMegabytesNeedsLittleMemory) {
  const std::string packed = gzip(std::string(size_t{64} << 20, 'a'));
  const std::string path = put("line.txt.gz", packed);
  const int code = in_child([&] {
    rusage before{}, after{};
    ::getrusage(RUSAGE_SELF, &before);
    TextSource source({path}, {});
    uint64_t bytes = 0;
    for (TextPiece piece; source.next(piece);) bytes += piece.text.size();
    ::getrusage(RUSAGE_SELF, &after);
    const bool small = after.ru_maxrss - before.ru_maxrss < 16 << 10;  // KiB
    return bytes == uint64_t{64} << 20 && source.counts().cuts_in_words == 63 && small ? 0 : 1;
  });
  EXPECT_EQ(code, 0);
}

}  // namespace
}  // namespace kvsmith
