#include "data/chat_source.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <zlib.h>

#include "core/text.h"
#include "tests/data/small_tokenizer.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

constexpr const char* kOpenAi =
    R"({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]})";
constexpr const char* kShareGpt =
    R"({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes?"}]})";

class ChatSourceTest : public testing::Test {
 protected:
  std::string put(const std::string& name, const std::string& content) {
    write_text(folder / name, content);
    return folder / name;
  }

  /// Each chat as "role: content|role: content|".
  static std::vector<std::string> read(const std::vector<std::string>& inputs) {
    ChatSource source(inputs);
    std::vector<std::string> chats;
    for (std::vector<ChatMessage> chat; source.next(chat);) {
      auto& text = chats.emplace_back();
      for (const auto& message : chat)
        text += cat(message.role, message.is_learnt ? ": " : "~ ", message.content, "|");
    }
    return chats;
  }

  /// Expects that the file with a good line and then `line` is refused in line 2.
  void expect_refused(const std::string& line, const std::string& part) {
    const bool sharegpt = line.find("\"conversations\"") != line.npos;
    const auto path = put("bad.jsonl", cat(sharegpt ? kShareGpt : kOpenAi, "\n", line, "\n"));
    expect_error([&] { read({path}); }, ExitCode::kBadData, cat("bad.jsonl:2: ", part));
  }

  TemporaryDirectory folder;
};

TEST_F(ChatSourceTest, ReadsBothStylesEachFileInItsOwn) {
  const auto a = put("a.jsonl", cat(kOpenAi, "\n\n  \n", kOpenAi));
  const auto b = put("b.jsonl", cat("\xEF\xBB\xBF", kShareGpt, "\r\n", kShareGpt, "\r\n"));
  const std::string chat = "user: Hi|assistant: Yes?|";
  EXPECT_EQ(read({a, b}), std::vector<std::string>(4, chat));
  EXPECT_EQ(read({folder.path().string()}), std::vector<std::string>(4, chat));
}

TEST_F(ChatSourceTest, TakesRolesAndContentsAndPassesOverTheRest) {
  const auto path = put(
      "a.jsonl",
      R"({"id": 7, "tags": [{"role": "x"}], "messages": [{"role": "system", "content": " \"é\"\n"},)"
      R"( {"role": "user", "name": "Ann", "content": ""},)"
      R"( {"role": "assistant", "content": "\u65e5", "weight": 0},)"
      R"( {"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "weight": 1},)"
      R"( {"role": "user", "content": "more"}]})");
  EXPECT_EQ(read({path}),
            (std::vector<std::string>{"system:  \"é\"\n|user: |assistant~ 日|user: x|assistant: y|"
                                      "user: more|"}));
}

TEST_F(ChatSourceTest, ReadsCompressedFilesAndRecordsThem) {
  const std::string text = cat(kOpenAi, "\n");
  const auto path = folder / "a.jsonl.gz";
  gzFile file = gzopen(path.c_str(), "wb");
  for (int i = 0; i < 5000; ++i) gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
  gzclose(file);
  ChatSource source({path});
  size_t chats = 0;
  for (std::vector<ChatMessage> chat; source.next(chat);) ++chats;
  EXPECT_EQ(chats, 5000);
  ASSERT_EQ(source.sources().size(), 1);
  EXPECT_EQ(source.sources()[0].name, "a.jsonl.gz");
}

TEST_F(ChatSourceTest, RefusesBrokenLinesWithTheirPlace) {
  const auto chat = [](const std::string& messages) {
    return cat("{\"messages\": [", messages, "]}");
  };
  const std::string user = R"({"role": "user", "content": "x"})",
                    answer = R"({"role": "assistant", "content": "y"})",
                    system = R"({"role": "system", "content": "z"})";
  expect_refused("{\"messages\": [", "malformed JSON (");
  expect_refused("[1]", "the line is an array; one JSON object a line is expected");
  expect_refused("3", "the line is a number; one JSON object a line is expected");
  expect_refused("{}", "no \"messages\"; the first chat of the file has it");
  expect_refused(R"({"messages": "x"})", "\"messages\" is a string, not an array");
  expect_refused(R"({"messages": []})",
                 "no turn of the assistant among 0; expected one with "
                 "\"role\": \"assistant\"");
  expect_refused(chat("\"x\""), "messages[0] is a string, not an object");
  expect_refused(chat(R"({"content": "x"})"), "no \"role\" in messages[0]; valid: content");
  expect_refused(chat(R"({"role": "user"})"), "no \"content\" in messages[0]; valid: role");
  expect_refused(chat(R"({"role": "user", "contents": "x"})"),
                 "no \"content\" in messages[0]; did you mean \"contents\"?");
  expect_refused(chat(R"({"role": "user", "content": null})"),
                 "messages[0].content is null, not a text");
  expect_refused(chat(R"({"role": "user", "content": [{"type": "text"}]})"),
                 "messages[0].content is an array, not a text");
  expect_refused(chat(user + R"(, {"role": "asistant", "content": "y"})"),
                 "messages[1].role is \"asistant\"; did you mean \"assistant\"?");
  expect_refused(chat(user + R"(, {"role": "tool", "content": "y"})"),
                 "messages[1].role is \"tool\"; valid: system, user, assistant");
  expect_refused(chat(user + R"(, {"role": "assistant", "content": " \n"})"),
                 "messages[1] is an empty turn of the assistant");
  expect_refused(chat(user), "no turn of the assistant among 1");
  expect_refused(chat(cat(system, ", ", system, ", ", answer)),
                 "messages[1] is a system message, but not the first of the chat; a chat has at "
                 "most one, at its beginning");
  expect_refused(chat(R"({"role": "assistant", "content": "y", "weight": 0})"),
                 "every turn of the assistant has weight 0");
  expect_refused(chat(R"({"role": "assistant", "content": "y", "weight": 0.5})"),
                 "messages[0].weight is 0.5; 0 or 1 is expected");
  const std::string deep(200'000, '['), back(200'000, ']');
  expect_refused(chat(R"({"role": "assistant", "content": "y", "weight": )" + deep + back + "}"),
                 "messages[0].weight is an array; 0 or 1 is expected");
  expect_refused(chat(R"({"role": "user", "content": "a\u0000b"})"),
                 "a NUL byte at byte 1 of messages[0].content");
  expect_refused(chat(R"({"role": "user", "content": "a", "content": "b"})"),
                 "the key \"content\" is there twice");
  expect_refused("{\"messages\": \"\xFF\"}", "invalid UTF-8 at byte 14 of the line");
  expect_refused(R"({"conversations": [{"from": "user", "value": "x"}]})",
                 "conversations[0].from is \"user\"; valid: system, human, gpt");
  expect_refused(R"({"conversations": [{"from": "humn", "value": "x"}]})",
                 "conversations[0].from is \"humn\"; did you mean \"human\"?");
  expect_refused(R"({"conversations": [{"from": "human", "value": "x"}]})",
                 "no turn of the assistant among 1; expected one with \"from\": \"gpt\"");
}

TEST_F(ChatSourceTest, RefusesFilesOfOtherKinds) {
  const auto first = [&](const std::string& line) {
    const auto path = put("x.jsonl", line);
    return [path] { read({path}); };
  };
  expect_error(first(R"({"text": "x"})"), ExitCode::kBadData,
               "x.jsonl:1: neither \"messages\" nor \"conversations\"; texts are built without");
  expect_error(first(R"({"chosen": "x", "rejected": "y"})"), ExitCode::kBadData,
               "pairs of answers are built with --preferences");
  expect_error(first(R"({"messages": [], "conversations": []})"), ExitCode::kBadData,
               "x.jsonl:1: both \"messages\" and \"conversations\"");
  expect_error([&] { read({put("x.txt", "Hi")}); }, ExitCode::kBadData, "chats are .jsonl");
  expect_error([&] { read({folder / "none.jsonl"}); }, ExitCode::kMissingInput, "none.jsonl");
  const auto mixed = put("mixed.jsonl", cat(kOpenAi, "\n", kShareGpt, "\n"));
  expect_error([&] { read({mixed}); }, ExitCode::kBadData,
               "mixed.jsonl:2: no \"messages\"; the first chat of the file has it");
}

TEST_F(ChatSourceTest, LongLinesAreReadWhole) {
  const std::string content(700'000, 'x');
  const auto path = put("a.jsonl", cat(R"({"messages": [{"role": "assistant", "content": ")",
                                       content, "\"}]}\n", kOpenAi));
  const auto chats = read({path});
  ASSERT_EQ(chats.size(), 2);
  EXPECT_EQ(chats[0].size(), content.size() + 12);
  EXPECT_EQ(chats[1], "user: Hi|assistant: Yes?|");
}

}  // namespace
}  // namespace kvsmith
