#include "inference/chat_session.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "cache/cache_options.h"
#include "data/utf8.h"
#include "tests/data/small_tokenizer.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

LoadedModel talker(const std::function<void(ModelConfig&)>& change = {}, uint64_t seed = 4) {
  LoadedModel out;
  out.tokenizer = small_tokenizer();
  out.bos_id = out.tokenizer->bos_id();
  out.model = Decoder(tiny_model(2, [&](ModelConfig& c) {
    c.vocab_size = out.tokenizer->vocab_size();
    c.max_position_embeddings = 300;
    c.tie_word_embeddings = false;  // tied ones repeat themselves
    c.initializer_range = 0.3;
    if (change) change(c);
  }));
  initialize(*out.model, seed);
  out.model->eval();
  return out;
}

GenerateOptions greedy(const std::string& cache = "full", int64_t tokens = 12) {
  GenerateOptions out;
  out.max_new_tokens = tokens;
  out.sampling.temperature = 0;
  out.cache = cache_config_of(words_of(cache));
  return out;
}

/// What generate() says next, from the whole conversation.
Generation from_all(LoadedModel& model,
                    std::vector<ChatMessage> messages,
                    const std::string& question,
                    GenerateOptions options) {
  const Chat chat(model);
  chat.end_with_answer(options);
  messages.push_back({"user", question});
  return generate(model, {chat.prompt(messages)}, options).at(0);
}

const std::vector<std::string> kQuestions = {"What is the age of wisdom?", "Why?",
                                             "The worst, Она"};

struct TalkCase {
  std::string name, cache;
  std::function<void(ModelConfig&)> change = {};
};

class ChatSessionOf : public ::testing::TestWithParam<TalkCase> {};

TEST_P(ChatSessionOf, EveryAnswerIsThatOfTheWholeConversation) {
  auto model = talker(GetParam().change);
  const auto options = greedy(GetParam().cache);
  ChatSession session(model, options);
  for (const auto& question : kQuestions) {
    const auto expected = from_all(model, session.messages(), question, options);
    std::string streamed;
    const auto got = session.ask(question, [&](std::string_view piece) {
      EXPECT_EQ(find_invalid_utf8(piece), piece.size());
      streamed += piece;
    });
    EXPECT_EQ(got.tokens, expected.tokens) << question;
    EXPECT_EQ(streamed, got.text);
    EXPECT_EQ(session.messages().back().content, got.text);
  }
  EXPECT_EQ(session.stats().answers, 3);
  EXPECT_LE(session.cache().bytes_used(), session.cache().bytes_by_formula());
}

TEST_P(ChatSessionOf, ACacheThatIsChangedToIsAsIfItHadBeenThereAllAlong) {
  auto model = talker(GetParam().change);
  ChatSession session(model, greedy());
  session.ask(kQuestions[0]);
  session.ask(kQuestions[1]);
  const auto options = greedy(GetParam().cache);
  session.set_cache(*options.cache);
  KeptCache expected(model.model, *options.cache);
  expected.read(Chat(model).so_far(session.messages()));
  EXPECT_EQ(session.cache().bytes_used(), expected.bytes_used());
  const auto answer = from_all(model, session.messages(), kQuestions[2], options);
  EXPECT_EQ(session.ask(kQuestions[2]).tokens, answer.tokens);
}

INSTANTIATE_TEST_SUITE_P(
    Kinds,
    ChatSessionOf,
    ::testing::Values(TalkCase{"gqa", "full"},
                      TalkCase{"lckv", "full",
                               [](auto& c) { c.num_hidden_layers = 6, c.pattern = "lckv"; }},
                      TalkCase{"bounded", "full",
                               [](auto& c) {
                                 c.layer_types = {"bounded"};
                                 c.sliding_window = 5;
                               }},
                      TalkCase{"streaming", "streaming budget_tokens=24 protect_sinks=2"},
                      TalkCase{"h2o", "h2o budget_tokens=24 protect_sinks=2 protect_recent=4"},
                      TalkCase{"int8", "int8"}),
    [](const auto& param) { return param.param.name; });

TEST(ChatSession, ReadsOnlyWhatIsNew) {
  auto model = talker();
  ChatSession session(model, greedy());
  session.ask(kQuestions[0]);
  const auto first = session.stats().last.prompt_tokens;
  EXPECT_EQ(session.stats().reused, 0);
  session.ask(kQuestions[1]);
  EXPECT_GE(session.stats().reused, first);  // what it said itself may be parted otherwise
  EXPECT_EQ(session.stats().all.prompt_tokens, first + session.stats().last.prompt_tokens);
  EXPECT_EQ(session.stats().all.new_tokens, 24);
}

TEST(ChatSession, TakesBackAndBeginsAnew) {
  auto model = talker();
  ChatSession session(model, greedy());
  EXPECT_FALSE(session.undo());
  const auto first = session.ask(kQuestions[0]).tokens;
  const auto second = session.ask(kQuestions[1]).tokens;
  EXPECT_TRUE(session.undo());
  EXPECT_EQ(session.ask(kQuestions[1]).tokens, second);
  session.reset();
  EXPECT_TRUE(session.messages().empty());
  EXPECT_EQ(session.cache().bytes_used(), 0);
  EXPECT_EQ(session.ask(kQuestions[0]).tokens, first);
}

TEST(ChatSession, WhatIsRefusedLeavesItAsItWas) {
  auto model = talker();
  ChatSession session(model, greedy());
  session.ask(kQuestions[0]);
  const auto bytes = session.cache().bytes_used();
  const auto expected = from_all(model, session.messages(), kQuestions[1], greedy());
  expect_error([&] { session.set_cache(cache_config_of({"h2o", "budget_tokens=2"})); },
               ExitCode::kConfig, "budget");
  auto hot = session.options();
  hot.sampling.temperature = -1;
  expect_error([&] { session.set_options(hot); }, ExitCode::kUsage, "temperature -1");
  hot = greedy("full", 0);
  expect_error([&] { session.set_options(hot); }, ExitCode::kUsage, "0 new tokens");
  expect_error([&] { session.ask("\xff"); }, ExitCode::kBadData, "UTF-8");
  std::string endless;
  for (int i = 0; i < 300; ++i) endless += "Она ";
  expect_error([&] { session.ask(endless); }, ExitCode::kUsage, "/reset begins a new one");
  expect_error([&] { session.set_system(endless); }, ExitCode::kUsage, "the context is 300");
  EXPECT_EQ(session.messages().size(), 2);
  EXPECT_EQ(session.cache().bytes_used(), bytes);
  EXPECT_EQ(session.ask(kQuestions[1]).tokens, expected.tokens);
}

TEST(ChatSession, AnAnswerThatIsStoppedIsPartOfTheConversation) {
  auto model = talker();
  ChatSession session(model, greedy());
  int asked = 0;
  const auto stopped = session.ask(kQuestions[0], {}, [&] { return ++asked == 3; });
  EXPECT_EQ(stopped.finish, "stopped");
  EXPECT_EQ(stopped.tokens.size(), 3);
  const auto expected = from_all(model, session.messages(), kQuestions[1], greedy());
  EXPECT_EQ(session.ask(kQuestions[1]).tokens, expected.tokens);
}

TEST(ChatSession, TheContextEndsAnAnswer) {
  auto model = talker();
  ChatSession session(model, greedy("full", 1000));
  const auto answer = session.ask(kQuestions[0]);
  EXPECT_EQ(answer.finish, "context");
  EXPECT_EQ(answer.tokens.size() + Chat(model).prompt({{"user", kQuestions[0]}}).size(), 300);
}

TEST(ChatSession, AnotherModelGoesOnAsIfItHadReadAll) {
  auto model = talker(), other = talker({}, 5);
  ChatSession session(model, greedy());
  session.ask(kQuestions[0]);
  session.set_model(other);
  const auto expected = from_all(other, session.messages(), kQuestions[1], greedy());
  EXPECT_EQ(session.ask(kQuestions[1]).tokens, expected.tokens);
  EXPECT_NE(from_all(model, {}, kQuestions[0], greedy()).tokens,
            from_all(other, {}, kQuestions[0], greedy()).tokens);
}

TEST(ChatSession, ASystemPromptHoldsFromTheBeginning) {
  auto model = talker();
  ChatSession session(model, greedy()), with(model, greedy(), "Be wise.");
  session.set_system("Be wise.");
  EXPECT_EQ(session.ask(kQuestions[0]).tokens, with.ask(kQuestions[0]).tokens);
  session.set_system("");
  session.reset();
  EXPECT_EQ(session.ask(kQuestions[0]).tokens, from_all(model, {}, kQuestions[0], greedy()).tokens);
}

}  // namespace
}  // namespace kvsmith
