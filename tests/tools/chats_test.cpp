// Chats as a user gives them: a corpus, what it shows, and some steps of training on it.
#include <cmath>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/files.h"
#include "core/text.h"
#include "tests/support/temporary_directory.h"
#include "tests/tools/program.h"

namespace kvsmith {
namespace {

using Json = nlohmann::ordered_json;

class Chats : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string text, chats;
    for (int i = 0; i < 300; ++i)
      text += cat("User: what is ", i % 50, " and ", i % 7, "?\n\nAssistant: ", i, ".\n");
    for (int i = 0; i < 30; ++i) {
      chats += cat(R"({"conversations": [{"from": "system", "value": "Count."}, )",
                   R"({"from": "human", "value": "What is )", i, R"( and 1?"}, )",
                   R"({"from": "gpt", "value": ")", i + 1, ".\\nDone.\"}]}\n");
    }
    write_file(at("text.txt"), text);
    write_file(at("chats.jsonl"), chats);
    run_to(0, "tokenizer train ", at("text.txt"), " --vocab-size 320 --output ", at("t.model"));
  }
  std::string at(const std::string& name) const { return (directory_ / name).string(); }
  std::string build(int code, const std::string& flags) const {
    return run_to(code, "data build ", at("chats.jsonl"), " --chats --tokenizer ", at("t.model"),
                  " --force -o ", at("c.h5"), " ", flags);
  }
  static void expect_part(const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\nis not in\n" << text;
  }

  TemporaryDirectory directory_;
};

TEST_F(Chats, BuildTellsWhatBecameOfThem) {
  const auto told = build(0, "");
  expect_part(told, "30 conversations of 90 turns in the format plain; ");
  expect_part(told, " tokens are learnt (");
  EXPECT_EQ(told.find("too long"), std::string::npos) << told;
  const auto chats = read_file(at("chats.jsonl"));
  write_file(at("chats.jsonl"), chats + R"({"conversations": [{"from": "gpt", "value": "1"}]})");
  expect_part(build(0, "--max-tokens 16 --overflow truncate"),
              "too long: 30 conversations dropped, 0 last turns dropped of others, 0 conversations "
              "truncated");
}

TEST_F(Chats, InspectShowsWhatIsLearnt) {
  build(0, "");
  const auto shown = run_to(0, "data inspect ", at("c.h5"), " --show 2 --verify");
  expect_part(shown, " tokens are learnt (");
  expect_part(shown, "<s>System: Count.\n\nUser: What is 0 and 1?\n\nAssistant: «1.»\n«Done.»\n\n");
  expect_part(shown, "«</s>»\n");
  expect_part(shown, "\ndocument 1, ");
  EXPECT_EQ(shown.find("document 2, "), std::string::npos);
  const auto coloured = run_to(0, "data inspect ", at("c.h5"), " --show 1 --color always");
  expect_part(coloured, "Assistant: \x1b[32m1.\x1b[0m\n\x1b[32mDone.\x1b[0m\n");
  const auto json = Json::parse(run_to(0, "data inspect ", at("c.h5"), " --json"));
  const Json& split = json["splits"]["train"];
  EXPECT_GT(split["learnt_tokens"], 30);
  EXPECT_LT(split["learnt_tokens"], split["tokens"]);
}

TEST_F(Chats, TrainAndEvaluateCountLearntTokens) {
  build(0, "--valid " + at("chats.jsonl"));
  write_file(at("run.toml"),
             cat("[model]\nhidden_size = 32\nnum_hidden_layers = 2\nnum_attention_heads = 4\n"
                 "num_key_value_heads = 2\nmax_position_embeddings = 128\n[data]\ncorpus = \"",
                 at("c.h5"),
                 "\"\ndocument_mask = true\n[train]\nmax_steps = 3\nbatch_size = 2\n"
                 "sequence_length = 64\nwarmup_steps = 1\nthreads = 1\ntensorboard = false\n"));
  expect_part(run_to(0, "train ", at("run.toml"), " -o ", at("r")), "finished: ");
  const auto inspected = Json::parse(run_to(0, "data inspect ", at("c.h5"), " --json"));
  run_to(0, "evaluate ", at("r"), " --corpus ", at("c.h5"),
         " --protocol parallel --context 128 --unigram -q --json ", at("e.json"));
  const auto result = Json::parse(read_file(at("e.json")));
  EXPECT_EQ(result["tokens"], inspected["splits"]["valid"]["learnt_tokens"]);
  EXPECT_TRUE(std::isfinite(result["perplexity"].get<double>()));
}

TEST_F(Chats, MisuseIsToldWithItsPlace) {
  write_file(at("chats.jsonl"), R"({"conversations": [{"from": "humn", "value": "x"}]})");
  expect_part(build(65, ""),
              "chats.jsonl:1: conversations[0].from is \"humn\"; did you mean \"human\"?");
  expect_part(build(78, "--template chatlm"), "no format \"chatlm\"; did you mean \"chatml\"?");
  expect_part(build(64, "--overflow drop"), "--overflow requires --max-tokens");
  expect_part(build(64, "--max-tokens 0"), "--max-tokens");
  expect_part(run_to(64, "data build ", at("text.txt"), " --template plain -o ", at("c.h5")),
              "--template is for chats and pairs of answers; add --chats or --preferences");
  expect_part(run_to(64, "data inspect ", at("c.h5"), " --color red"), "--color");
}

}  // namespace
}  // namespace kvsmith
