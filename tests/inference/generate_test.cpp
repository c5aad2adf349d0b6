#include "inference/generate.h"

#include <cmath>

#include <torch/types.h>

#include "core/files.h"
#include "data/tokenizer_training.h"
#include "data/utf8.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

/// An untrained model with a real tokenizer.
class GenerateTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string text;
    for (int i = 0; i < 400; ++i)
      text += "the quick brown fox " + std::to_string(i) + " jumps over the lazy dog\n";
    write_file(directory_ / "text.txt", text);
    TokenizerTraining training;
    training.inputs = {(directory_ / "text.txt").string()};
    training.vocab_size = 300;
    train_tokenizer(training, directory_ / "t.model");
    loaded_.tokenizer = Tokenizer::load(directory_ / "t.model");
    loaded_.bos_id = loaded_.tokenizer->bos_id();
    loaded_.eos_id = loaded_.tokenizer->eos_id();
    auto config = tiny_model();
    config.vocab_size = loaded_.tokenizer->vocab_size();
    loaded_.model = Decoder(config);
    initialize(*loaded_.model, 4);
    loaded_.model->eval();
  }
  Generation generate_one(std::string_view text,
                          const GenerateOptions& options,
                          GenerateStats* stats = nullptr) {
    return generate(loaded_, {text_prompt(loaded_, text)}, options, stats).at(0);
  }
  /// What is streamed, and the result.
  std::pair<std::string, Generation> stream_one(std::string_view text,
                                                const GenerateOptions& options) {
    std::string streamed;
    const auto results = generate(loaded_, {text_prompt(loaded_, text)}, options, nullptr,
                                  [&](size_t, std::string_view piece) { streamed += piece; });
    return {streamed, results.at(0)};
  }
  static GenerateOptions options(double temperature = 0) {
    GenerateOptions out;
    out.max_new_tokens = 20;
    out.sampling.temperature = temperature;
    return out;
  }

  TemporaryDirectory directory_;
  LoadedModel loaded_;
};

TEST_F(GenerateTest, GreedyEqualsTheArgmaxOfWholePasses) {
  loaded_.bos_id = 7;  // of config.json; what texts begin with, the tokenizer says
  const auto result = generate_one("the quick", options());
  auto ids = text_prompt(loaded_, "the quick");
  EXPECT_EQ(ids[0], loaded_.tokenizer->bos_id());
  for (const int32_t token : result.tokens) {
    const auto logits =
        loaded_.model->forward(torch::tensor(ids, torch::kLong).unsqueeze(0))[0][-1];
    EXPECT_EQ(token, logits.argmax().item<int32_t>());
    ids.push_back(token);
  }
  EXPECT_FALSE(result.tokens.empty());
}

TEST_F(GenerateTest, ABatchOfDifferentPromptsGivesEachPromptsOwnText) {
  const std::vector<std::string> texts = {"the", "brown fox 17 jumps over", "lazy dog"};
  std::vector<std::vector<int32_t>> prompts;
  for (const auto& text : texts) prompts.push_back(text_prompt(loaded_, text));
  const auto together = generate(loaded_, prompts, options());
  for (size_t i = 0; i < texts.size(); ++i)
    EXPECT_EQ(together[i].text, generate_one(texts[i], options()).text) << texts[i];
}

TEST_F(GenerateTest, SameSeedSameTextOtherSeedOtherText) {
  auto sampled = options(1.0);
  sampled.sampling.seed = 5;
  const auto first = generate_one("the", sampled).text;
  EXPECT_EQ(generate_one("the", sampled).text, first);
  sampled.sampling.seed = 6;
  EXPECT_NE(generate_one("the", sampled).text, first);
}

TEST_F(GenerateTest, StreamedPiecesJoinToTheTextAndStopTextsAreCutOff) {
  auto streaming = options(1.0);
  const auto [streamed, whole] = stream_one("the", streaming);
  EXPECT_EQ(streamed, whole.text);
  const auto letter = whole.text.find_first_of("abcdefghijklmnopqrstuvwxyz", 1);
  ASSERT_NE(letter, std::string::npos);
  streaming.stop = {whole.text.substr(letter, 1)};
  const auto [streamed_until, stopped] = stream_one("the", streaming);
  EXPECT_EQ(stopped.finish, "stop");
  EXPECT_EQ(stopped.text, whole.text.substr(0, whole.text.find(streaming.stop[0])));
  EXPECT_EQ(streamed_until, stopped.text);
}

TEST_F(GenerateTest, EndTokensEndASequenceAndAreNoPartOfIt) {
  const auto whole = generate_one("the", options(1.0)).tokens;
  auto ending = options(1.0);
  ending.end_tokens = {whole.at(5)};
  const auto ended = generate_one("the", ending);
  EXPECT_EQ(ended.finish, "eos");
  EXPECT_EQ(ended.tokens,
            std::vector(whole.begin(), std::ranges::find(whole, ending.end_tokens[0])));
  loaded_.end_ids = ending.end_tokens;  // as those that the model itself lists do
  EXPECT_EQ(generate_one("the", options(1.0)).tokens, ended.tokens);
}

TEST_F(GenerateTest, CharactersInBytePiecesAreStreamedWhole) {
  const std::string wanted = "a\u00e9\u6f22\U0001F642z";
  for (int seed = 0; seed < 40; ++seed) {  // bytes at random: mostly incomplete characters
    auto sampled = options(50.0);
    sampled.sampling.seed = static_cast<uint64_t>(seed);
    const auto [streamed, result] = stream_one(wanted, sampled);
    EXPECT_EQ(find_invalid_utf8(result.text), result.text.size());
    EXPECT_EQ(streamed, result.text) << seed;
  }
}

TEST_F(GenerateTest, CacheBytesAreThoseOfTheTokensFedIn) {
  GenerateStats stats;
  const auto result = generate_one("the quick", options(), &stats);
  // the last token sampled is never fed in
  const auto fed = stats.prompt_tokens + static_cast<int64_t>(result.tokens.size()) -
                   (result.finish == "length" ? 1 : 0);
  EXPECT_EQ(stats.cache_bytes, kv_cache_bytes(loaded_.model->config(), fed, 4));
}

TEST_F(GenerateTest, RefusesWhatCannotWork) {
  auto too_long = options();
  too_long.max_new_tokens = 128;
  expect_error([&] { generate_one("x", too_long); }, ExitCode::kUsage,
               "exceed max_position_embeddings 128");
  for (const auto& [temperature, top_k, top_p] : std::vector<std::tuple<double, int, double>>{
           {-1, 0, 1}, {NAN, 0, 1}, {1, -2, 1}, {1, 0, 0}, {1, 0, 1.5}}) {
    auto bad = options(temperature);
    bad.sampling.top_k = top_k;
    bad.sampling.top_p = top_p;
    expect_error([&] { generate_one("x", bad); }, ExitCode::kUsage, "expected");
  }
  expect_error([&] { generate(loaded_, {{}}, options()); }, ExitCode::kUsage, "prompt is empty");
  loaded_.tokenizer.reset();
  expect_error([&] { generate(loaded_, {{1}}, options()); }, ExitCode::kUsage, "no tokenizer");
}

TEST(Sample, DrawsWithTheProbabilitiesOfTheSoftmax) {
  const auto logits = torch::tensor({std::log(0.5F), std::log(0.3F), std::log(0.2F)});
  std::array<int, 3> counts{};
  for (int i = 0; i < 20000; ++i) ++counts[static_cast<size_t>(sample(logits, {.seed = 1}, 0, i))];
  EXPECT_NEAR(counts[0] / 20000.0, 0.5, 0.015);
  EXPECT_NEAR(counts[1] / 20000.0, 0.3, 0.015);
}

TEST(Sample, TopKAndTopPKeepTheLikeliest) {
  const auto logits = torch::tensor({0.0F, 3.0F, 2.0F, 1.0F});
  for (int i = 0; i < 300; ++i) {
    EXPECT_EQ(sample(logits, {.top_k = 1, .seed = 2}, 0, i), 1);
    EXPECT_NE(sample(logits, {.top_k = 3, .seed = 2}, 0, i), 0);
    EXPECT_EQ(sample(logits, {.top_p = 0.5, .seed = 2}, 0, i), 1);  // p(1) = 0.64
  }
}

TEST(Sample, RefusesNan) {
  expect_error([] { sample(torch::tensor({0.0F, NAN}), {}, 0, 3); }, ExitCode::kNumerical,
               "position 3");
}

}  // namespace
}  // namespace kvsmith
