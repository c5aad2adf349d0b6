#include "inference/chat.h"

#include <gtest/gtest.h>

#include "tests/data/small_byte_bpe.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

/// As far as a chat needs it: a tokenizer.
LoadedModel model_with(const Tokenizer& tokenizer) {
  LoadedModel model;
  model.tokenizer = tokenizer;
  model.bos_id = tokenizer.bos_id();
  return model;
}

LoadedModel chatml_model() {
  auto parts = small_parts("smollm");
  parts.chat_template = "{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}";
  return model_with(Tokenizer::from_bytes(make_tokenizer_json(parts, "chatml"), "chatml"));
}

TEST(Chat, WritesPromptsInTheTemplateOfTheTokenizer) {
  const auto model = chatml_model();
  const auto ids = [&](const Chat& chat) { return chat.prompt({{"user", "Hi"}}); };
  const auto expected = [&](const std::string& system) {
    return model.tokenizer->encode_with_specials(
        system + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  };
  EXPECT_EQ(ids(Chat(model)), expected("<|im_start|>system\nBe kind.<|im_end|>\n"));
  EXPECT_EQ(ids(Chat(model, "Be brief.")), expected("<|im_start|>system\nBe brief.<|im_end|>\n"));
  EXPECT_EQ(ids(Chat(model, "")), expected(""));
}

TEST(Chat, WithoutATemplatePromptsArePlainBehindBeginOfText) {
  const auto model = model_with(small_tokenizer());
  auto expected = model.tokenizer->encode("User: Hi\n\nAssistant: ");
  expected.insert(expected.begin(), model.bos_id);
  EXPECT_EQ(Chat(model).prompt({{"user", "Hi"}}), expected);
}

TEST(Chat, AnswersEndWithTheTurn) {
  GenerateOptions options;
  const auto model = chatml_model();
  Chat(model).end_with_answer(options);
  EXPECT_EQ(options.end_tokens, std::vector{model.tokenizer->special_id("<|im_end|>")});
  EXPECT_TRUE(options.stop.empty());

  options = {};
  Chat(model_with(small_tokenizer())).end_with_answer(options);
  EXPECT_TRUE(options.end_tokens.empty());
  EXPECT_EQ(options.stop, std::vector<std::string>{"\n\nUser: "});
}

TEST(Chat, NeedsATokenizer) {
  expect_error([] { Chat(LoadedModel{}); }, ExitCode::kUsage, "no tokenizer");
}

}  // namespace
}  // namespace kvsmith
