#include <algorithm>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/hash.h"
#include "core/text.h"
#include "data/build.h"
#include "data/chat_template.h"
#include "data/corpus.h"
#include "data/hdf5.h"
#include "tests/data/small_byte_bpe.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

using Format = ChatTemplate::Format;

/// A chat of `answers` questions and answers, all of one length.
std::vector<ChatMessage> chat_of(int answers) {
  std::vector<ChatMessage> chat = {{"system", "Be wise."}};
  for (int i = 0; i < answers; ++i) {
    chat.push_back({"user", cat("What is ", i, "?")});
    chat.push_back({"assistant", cat("It is ", i, ".")});
  }
  return chat;
}

std::string json_of(const std::vector<ChatMessage>& chat) {
  std::vector<std::string> messages;
  for (const auto& message : chat)
    messages.push_back(
        cat(R"({"role": ")", message.role, R"(", "content": ")", message.content, "\"}"));
  return cat("{\"messages\": [", join(messages), "]}\n");
}

struct Document {
  std::vector<int32_t> ids;
  std::vector<uint8_t> learnt;
};

class BuildChatsTest : public testing::Test {
 protected:
  BuildChatsTest() {
    TokenizerParts parts = small_parts("smollm");
    parts.chat_template = "{{ '<|im_start|>' }}";
    write_text(folder / "t.json", make_tokenizer_json(parts, "t.json"));
    put({1, 2, 3});
    options.train_inputs = {folder / "chats.jsonl"};
    options.tokenizer = folder / "t.json";
    options.chats.are_read = true;
    options.threads = 2;
  }

  /// Chats of so many answers each.
  void put(const std::vector<int>& answers) {
    std::string lines;
    for (const int count : answers) lines += json_of(chat_of(count));
    write_text(folder / "chats.jsonl", lines);
  }

  CorpusBuildStats build() { return build_corpus(options, folder / "out.h5"); }

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

  size_t length_of(int answers, Format format = Format::kChatml) const {
    return ChatTemplate(format)
        .ids(Tokenizer::load(folder / "t.json"), chat_of(answers), false)
        .size();
  }

  TemporaryDirectory folder;
  CorpusBuild options;
};

TEST_F(BuildChatsTest, StoresEachChatWithWhatIsLearntOfIt) {
  const auto stats = build();
  ASSERT_TRUE(stats.chats);
  EXPECT_EQ(stats.documents, 3);
  EXPECT_EQ(stats.chats->turns, 3 + 5 + 7);
  EXPECT_EQ(stats.chats->format, "chatml");
  EXPECT_TRUE(stats.chats->is_format_of_tokenizer);
  EXPECT_EQ(stats.chats->dropped + stats.chats->dropped_turns + stats.chats->truncated, 0);

  const auto tokenizer = Tokenizer::load(folder / "t.json");
  const auto stored = documents();
  ASSERT_EQ(stored.size(), 3);
  uint64_t tokens = 0, learnt = 0;
  for (int i = 0; i < 3; ++i) {
    const auto& document = stored[static_cast<size_t>(i)];
    const auto want = ChatTemplate(Format::kChatml).tokens(tokenizer, chat_of(i + 1), false);
    EXPECT_EQ(document.ids, want.ids);
    EXPECT_EQ(document.learnt, want.learnt);
    tokens += want.ids.size();
    learnt += static_cast<uint64_t>(std::ranges::count(want.learnt, 1));
  }
  EXPECT_EQ(stats.tokens, tokens);
  EXPECT_EQ(stats.chats->learnt_tokens, learnt);

  const Corpus corpus = Corpus::open(folder / "out.h5");
  corpus.verify();
  EXPECT_TRUE(corpus.info().marks_learnt);
  EXPECT_TRUE(corpus.split("train")->marks_learnt());
  EXPECT_EQ(corpus.split("train")->text_bytes(0), tokenizer.decode(stored[0].ids).size());
  EXPECT_EQ(std::get<int64_t>(Hdf5File::open(folder / "out.h5").attributes().at("version")), 2);
}

TEST_F(BuildChatsTest, ATextCorpusHasNoMarksAndTheVersionItAlwaysHad) {
  write_text(folder / "text.txt", sample_text());
  options.train_inputs = {folder / "text.txt"};
  options.chats = {};
  EXPECT_FALSE(build().chats);
  const auto file = Hdf5File::open(folder / "out.h5");
  EXPECT_EQ(std::get<int64_t>(file.attributes().at("version")), 1);
  EXPECT_THAT(file.members("train"),
              testing::ElementsAre("document_bytes", "document_bytes_xxh3", "document_offsets",
                                   "document_offsets_xxh3", "tokens", "tokens_xxh3"));
  EXPECT_FALSE(Corpus::open(folder / "out.h5").split("train")->marks_learnt());
  EXPECT_EQ(documents()[0].learnt, std::vector<uint8_t>(documents()[0].ids.size(), 1));
}

TEST_F(BuildChatsTest, PlainChatsEndWithEndOfTextThatIsLearntAfterAnAnswer) {
  write_text(folder / "t.model", small_model());
  options.tokenizer = folder / "t.model";
  auto open = chat_of(1);
  open.push_back({"user", "And?"});
  write_text(folder / "chats.jsonl", json_of(chat_of(1)) + json_of(open));
  const auto stats = build();
  EXPECT_EQ(stats.chats->format, "plain");
  const auto stored = documents();
  const auto want = ChatTemplate(Format::kPlain).tokens(small_tokenizer(), chat_of(1), false);
  EXPECT_EQ(stored[0].ids.front(), 1);
  EXPECT_EQ(stored[0].learnt.front(), 0);
  EXPECT_TRUE(std::equal(want.ids.begin(), want.ids.end(), stored[0].ids.begin() + 1));
  EXPECT_TRUE(std::equal(want.learnt.begin(), want.learnt.end(), stored[0].learnt.begin() + 1));
  EXPECT_EQ(stored[0].ids.back(), 2);
  EXPECT_EQ(stored[0].learnt.back(), 1);
  EXPECT_EQ(stored[1].ids.back(), 2);
  EXPECT_EQ(stored[1].learnt.back(), 0);
}

TEST_F(BuildChatsTest, AFlagSaysTheFormat) {
  options.chats.format = "plain";
  EXPECT_FALSE(build().chats->is_format_of_tokenizer);
  const auto tokenizer = Tokenizer::load(folder / "t.json");
  auto want = ChatTemplate(Format::kPlain).ids(tokenizer, chat_of(1), false);
  want.push_back(tokenizer.eos_id());
  EXPECT_EQ(documents()[0].ids, want);
  options.chats.format = "llama3";
  expect_error([&] { build(); }, ExitCode::kConfig, "the tokenizer has no token <|begin_of_text|>");
}

TEST_F(BuildChatsTest, DropsLastTurnsOfWhatIsTooLong) {
  options.chats.max_tokens = static_cast<int64_t>(length_of(2));
  put({1, 2, 3, 5});
  auto stats = build();
  const auto stored = documents();
  const auto two =
      ChatTemplate(Format::kChatml).tokens(Tokenizer::load(folder / "t.json"), chat_of(2), false);
  ASSERT_EQ(stored.size(), 4);
  for (const size_t i : {1u, 2u, 3u}) {
    EXPECT_EQ(stored[i].ids, two.ids) << i;
    EXPECT_EQ(stored[i].learnt, two.learnt) << i;
  }
  EXPECT_EQ(stats.chats->turns, 3 + 3 * 5);
  EXPECT_EQ(stats.chats->dropped_turns, 2 + 6);
  EXPECT_EQ(stats.chats->dropped + stats.chats->truncated, 0);

  --options.chats.max_tokens;
  stats = build();
  EXPECT_EQ(documents()[3].ids.size(), length_of(1));
  EXPECT_EQ(stats.chats->dropped_turns, 2 + 4 + 8);

  options.chats.max_tokens = static_cast<int64_t>(length_of(1)) - 1;
  expect_error([&] { build(); }, ExitCode::kBadData,
               cat("of 4 chats none has an answer within ", options.chats.max_tokens, " tokens"));
  write_text(folder / "short.jsonl", json_of({{"user", "x"}, {"assistant", "y"}}));
  options.train_inputs.push_back(folder / "short.jsonl");
  stats = build();
  EXPECT_EQ(stats.documents, 1);
  EXPECT_EQ(stats.chats->dropped, 4);
}

TEST_F(BuildChatsTest, TruncatesWhatIsTooLong) {
  const size_t two = length_of(2);
  options.chats.overflow = "truncate";
  options.chats.max_tokens = static_cast<int64_t>(two) - 4;  // within the second answer
  auto stats = build();
  const auto stored = documents();
  const auto whole =
      ChatTemplate(Format::kChatml).tokens(Tokenizer::load(folder / "t.json"), chat_of(2), false);
  ASSERT_EQ(stored.size(), 3);
  EXPECT_EQ(stored[0].ids.size(), length_of(1));
  EXPECT_EQ(stored[1].ids, std::vector<int32_t>(whole.ids.begin(), whole.ids.end() - 4));
  EXPECT_EQ(stored[1].learnt, std::vector<uint8_t>(whole.learnt.begin(), whole.learnt.end() - 4));
  EXPECT_EQ(stats.chats->truncated, 2);
  EXPECT_EQ(stats.chats->dropped + stats.chats->dropped_turns, 0);

  options.chats.max_tokens = 3;  // ends within the system prompt
  expect_error([&] { build(); }, ExitCode::kBadData, "of 3 chats none has an answer within 3");
}

TEST_F(BuildChatsTest, TheFileIsTheSameForAnyThreadCount) {
  std::vector<int> answers;
  for (int i = 0; i < 3000; ++i) answers.push_back(1 + i % 40);
  put(answers);
  options.valid_fraction = 0.1;
  std::vector<std::string> files;
  for (const int threads : {1, 3}) {
    options.threads = threads;
    const auto stats = build();
    EXPECT_EQ(stats.documents, 3000);
    files.push_back(sha256_of_file(folder / "out.h5"));
  }
  EXPECT_EQ(files[0], files[1]);
  EXPECT_GT(documents("valid").size(), 200);
}

TEST_F(BuildChatsTest, SaysWhatIsWrongWithOptionsAndInputs) {
  const auto with = [&](auto change) {
    CorpusBuild changed = options;
    change(changed);
    return [this, changed] { build_corpus(changed, folder / "out.h5"); };
  };
  expect_error(with([](CorpusBuild& b) { b.chats.format = "chatlm"; }), ExitCode::kConfig,
               "did you mean \"chatml\"?");
  expect_error(with([](CorpusBuild& b) { b.chats.overflow = "cut"; }), ExitCode::kConfig,
               "overflow: \"cut\"; choose drop or truncate");
  expect_error(with([](CorpusBuild& b) { b.chats.max_tokens = -1; }), ExitCode::kConfig,
               "max_tokens: -1");
  expect_error(with([](CorpusBuild& b) { b.text.invalid_utf8 = "skip"; }), ExitCode::kConfig,
               "invalid_utf8: chats with invalid UTF-8 are refused");
  expect_error(with([](CorpusBuild& b) { b.tokenizer.clear(); }), ExitCode::kConfig,
               "no tokenizer for chats");
  write_text(folder / "empty.jsonl", "\n\n");
  expect_error(with([&](CorpusBuild& b) { b.train_inputs = {folder / "empty.jsonl"}; }),
               ExitCode::kBadData, "empty.jsonl: 0 documents");
  expect_error(with([&](CorpusBuild& b) { b.valid_inputs = {folder / "empty.jsonl"}; }),
               ExitCode::kBadData, "empty.jsonl: 0 documents");
  write_text(folder / "bad.jsonl", json_of(chat_of(1)) + "{}\n");
  expect_error(with([&](CorpusBuild& b) { b.valid_inputs = {folder / "bad.jsonl"}; }),
               ExitCode::kBadData, "bad.jsonl:2: no \"messages\"");
  EXPECT_FALSE(std::filesystem::exists(folder / "out.h5"));
}

}  // namespace
}  // namespace kvsmith
