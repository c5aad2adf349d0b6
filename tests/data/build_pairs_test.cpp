#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/hash.h"
#include "core/text.h"
#include "data/build.h"
#include "data/chat_template.h"
#include "data/corpus.h"
#include "data/preference_json.h"
#include "tests/data/small_byte_bpe.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

constexpr const char* kUser = R"({"role": "user", "content": "What is 1?"})";

std::string answer(const std::string& text) {
  return cat(R"({"role": "assistant", "content": ")", text, "\"}");
}

/// {"prompt": [...], "chosen": [...], "rejected": [...]}
std::string explicit_pair(const std::string& chosen, const std::string& rejected) {
  return cat("{\"prompt\": [", kUser, "], \"chosen\": [", answer(chosen), "], \"rejected\": [",
             answer(rejected), "]}\n");
}

/// The same as whole conversations.
std::string implicit_pair(const std::string& chosen, const std::string& rejected) {
  return cat("{\"prompt\": \"What is 1?\", \"chosen\": [", kUser, ", ", answer(chosen),
             "], \"rejected\": [", kUser, ", ", answer(rejected), "]}\n");
}

std::string text_pair(const std::string& prompt,
                      const std::string& chosen,
                      const std::string& rejected) {
  return cat("{\"prompt\": \"", prompt, "\", \"chosen\": \"", chosen, "\", \"rejected\": \"",
             rejected, "\"}\n");
}

struct Document {
  std::vector<int32_t> ids;
  std::vector<uint8_t> learnt;

  bool operator==(const Document&) const = default;
};

class BuildPairsTest : public testing::Test {
 protected:
  BuildPairsTest() {
    TokenizerParts parts = small_parts("smollm");
    parts.chat_template = "{{ '<|im_start|>' }}";
    write_text(folder / "t.json", make_tokenizer_json(parts, "t.json"));
    options.train_inputs = {folder / "pairs.jsonl"};
    options.tokenizer = folder / "t.json";
    options.chats.are_pairs = true;
    options.threads = 2;
  }

  CorpusBuildStats build(const std::string& lines) {
    write_text(folder / "pairs.jsonl", lines);
    return build_corpus(options, folder / "out.h5");
  }

  std::vector<Document> documents(const std::string& split = "train") const {
    const auto from = Corpus::open(folder / "out.h5").split(split);
    std::vector<Document> all;
    for (uint64_t i = 0; i < from->documents(); ++i) {
      const auto count = from->offset(i + 1) - from->offset(i);
      auto& document = all.emplace_back(std::vector<int32_t>(count), std::vector<uint8_t>(count));
      from->read(from->offset(i), document.ids);
      from->read_learnt(from->offset(i), document.learnt);
    }
    return all;
  }

  /// The question and an answer, of which the latter is learnt.
  Document written(const std::string& text) const {
    const auto tokens = ChatTemplate(ChatTemplate::Format::kChatml)
                            .tokens(Tokenizer::load(folder / "t.json"),
                                    {{"user", "What is 1?"}, {"assistant", text}}, false);
    return {tokens.ids, tokens.learnt};
  }

  /// Expects that a file with a good line and then `line` is refused in line 2.
  void expect_refused(const std::string& line, const std::string& part) {
    expect_error([&] { build(explicit_pair("One.", "Two.") + line); }, ExitCode::kBadData,
                 cat("pairs.jsonl:2: ", part));
    EXPECT_FALSE(std::filesystem::exists(folder / "out.h5"));
  }

  TemporaryDirectory folder;
  CorpusBuild options;
};

TEST_F(BuildPairsTest, StoresBothAnswersOfEachPairChosenFirst) {
  const auto stats = build(explicit_pair("One.", "Two, I think.") + implicit_pair("1", "2"));
  ASSERT_TRUE(stats.pairs);
  EXPECT_EQ(stats.documents, 4);
  EXPECT_EQ(stats.pairs->format, "chatml");
  EXPECT_EQ(stats.pairs->too_long + stats.pairs->alike + stats.pairs->truncated, 0);
  const std::vector<Document> want = {written("One."), written("Two, I think."), written("1"),
                                      written("2")};
  EXPECT_EQ(documents(), want);
  const Corpus corpus = Corpus::open(folder / "out.h5");
  corpus.verify();
  EXPECT_TRUE(corpus.info().holds_pairs);
  EXPECT_TRUE(corpus.info().marks_learnt);
}

TEST_F(BuildPairsTest, OfAConversationOnlyTheLastAnswerIsLearnt) {
  const auto begin = cat(kUser, ", ", answer("One."), ", ", kUser, ", ");
  build(cat("{\"chosen\": [", begin, answer("Again one."), "], \"rejected\": [", begin,
            answer("Two."), "]}\n"));
  const auto tokenizer = Tokenizer::load(folder / "t.json");
  const auto stored = documents();
  std::vector<int32_t> learnt;
  for (size_t i = 0; i < stored[0].ids.size(); ++i)
    if (stored[0].learnt[i] != 0) learnt.push_back(stored[0].ids[i]);
  EXPECT_EQ(learnt.back(), tokenizer.special_id("<|im_end|>"));
  learnt.pop_back();
  EXPECT_EQ(tokenizer.decode(learnt), "Again one.");
}

TEST_F(BuildPairsTest, TextsAreStoredAsTheyAre) {
  const auto stats = build(text_pair("The sky is", " blue.", " green."));
  const auto tokenizer = Tokenizer::load(folder / "t.json");
  std::vector<int32_t> ids;
  tokenizer.encode_to(ids, "The sky is", Tokenizer::Begin::kText);
  std::vector<uint8_t> learnt(ids.size(), 0);
  tokenizer.encode_to(ids, " blue.", Tokenizer::Begin::kInside);
  ids.push_back(tokenizer.eos_id());
  learnt.resize(ids.size(), 1);
  EXPECT_EQ(documents()[0], (Document{ids, learnt}));
  EXPECT_EQ(stats.documents, 2);
}

TEST_F(BuildPairsTest, LeavesOutPairsAsAWholeAndCountsThem) {
  const std::string lines = explicit_pair("One.", "Two, and that is all that I know.") +
                            explicit_pair("1", "2") + explicit_pair("1", "1");
  options.chats.max_tokens = static_cast<int64_t>(written("One.").ids.size());
  auto stats = build(lines);
  EXPECT_EQ(stats.documents, 2);
  EXPECT_EQ(stats.pairs->too_long, 1);
  EXPECT_EQ(stats.pairs->alike, 1);
  EXPECT_EQ(documents()[0], written("1"));

  options.chats.overflow = "truncate";
  stats = build(lines);
  EXPECT_EQ(stats.documents, 4);
  EXPECT_EQ(stats.pairs->too_long, 0);
  EXPECT_EQ(stats.pairs->truncated, 1);
  EXPECT_EQ(documents()[1].ids.size(), static_cast<size_t>(options.chats.max_tokens));

  options.chats.max_tokens = 2;  // within the question
  expect_error([&] { build(lines); }, ExitCode::kBadData,
               "of 3 pairs 3 do not fit into 2 tokens and 0 have equal answers");
}

TEST_F(BuildPairsTest, BothAnswersOfAPairAreInOneSplitForAnyThreadCount) {
  std::string lines;
  for (int i = 0; i < 2000; ++i) lines += explicit_pair(cat("A", i), cat("B", i));
  options.valid_fraction = 0.1;
  std::vector<std::string> files;
  for (const int threads : {1, 3}) {
    options.threads = threads;
    build(lines);
    files.push_back(sha256_of_file(folder / "out.h5"));
  }
  EXPECT_EQ(files[0], files[1]);
  const auto valid = documents("valid");
  EXPECT_GT(valid.size(), 200);
  EXPECT_EQ(valid.size() % 2, 0);
  EXPECT_EQ(valid.size() + documents().size(), 4000);
}

TEST_F(BuildPairsTest, RefusesBrokenLinesWithTheirPlace) {
  expect_refused("{\"chosen\": [", "malformed JSON (");
  expect_refused("[]", "the line is an array; one JSON object a line is expected");
  expect_refused("{}", "no \"chosen\"; one JSON object a line is expected");
  expect_refused(R"({"messages": []})", "no \"chosen\"; chats are built with --chats");
  expect_refused(R"({"chosen": "a", "rejected": "b"})", "texts without a \"prompt\"");
  expect_refused(R"({"prompt": "x", "chosen": "a"})", "no \"rejected\"");
  expect_refused(R"({"prompt": "x", "chosen": "a", "rejected": " "})",
                 "\"rejected\" is an empty text");
  expect_refused(R"({"prompt": "x", "chosen": 7, "rejected": "b"})",
                 "\"chosen\" is a number, not a text");
  expect_refused(
      cat("{\"prompt\": [", kUser, "], \"chosen\": [", answer("a"), "], \"rejected\": \"b\"}"),
      "\"rejected\" is a string, not an array");
  expect_refused(cat("{\"prompt\": [", kUser,
                     R"(], "chosen": [{"role": "asistant", "content": "a"}], "rejected": []})"),
                 "chosen[0].role is \"asistant\"; did you mean \"assistant\"?");
  expect_refused(explicit_pair("a", " "), "rejected[0] is an empty turn of the assistant");
  expect_refused(
      cat("{\"prompt\": [", kUser, "], \"chosen\": [", answer("a"), "], \"rejected\": []}"),
      "\"rejected\" has no messages");
  expect_refused(cat("{\"chosen\": [", kUser, ", ", answer("a"),
                     R"(], "rejected": [{"role": "user", "content": "Why?"}, )", answer("b"), "]}"),
                 "chosen[0] is of the user, where the answer begins");
  expect_refused(cat("{\"chosen\": [", answer("a"), "], \"rejected\": [", answer("b"), "]}"),
                 "nothing is asked");
  expect_refused(cat("{\"prompt\": [", kUser, "], \"rejected\": [", answer("b"),
                     R"(], "chosen": [{"role": "assistant", "content": "a", "weight": 0}]})"),
                 "every turn of the assistant in the answer of \"chosen\" has weight 0");
  expect_refused("{\"chosen\": \"\xFF\"}", "invalid UTF-8");
}

TEST_F(BuildPairsTest, SaysWhatIsWrongWithOptionsAndInputs) {
  options.chats.are_read = true;
  expect_error([&] { build(""); }, ExitCode::kConfig, "both chats and pairs of answers");
  options.chats.are_read = false;
  expect_error([&] { build("\n"); }, ExitCode::kBadData, "pairs.jsonl: 0 documents");
  options.tokenizer.clear();
  expect_error([&] { build(""); }, ExitCode::kConfig, "no tokenizer for chats");
  write_text(folder / "x.txt", "x");
  options.tokenizer = folder / "t.json";
  options.train_inputs = {folder / "x.txt"};
  expect_error([&] { build(""); }, ExitCode::kBadData, "pairs of answers are .jsonl");
}

}  // namespace
}  // namespace kvsmith
