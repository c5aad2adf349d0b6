// Pairs of answers as a user gives them: a corpus, what it shows, and a model that learns from it.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/files.h"
#include "core/text.h"
#include "tests/support/temporary_directory.h"
#include "tests/tools/program.h"

namespace kvsmith {
namespace {

class Preferences : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string text, pairs;
    for (int i = 0; i < 300; ++i)
      text += cat("User: what is ", i % 50, " and ", i % 7, "?\n\nAssistant: ", i, ".\n");
    for (int i = 0; i < 30; ++i) {
      pairs += cat(R"({"prompt": [{"role": "user", "content": "What is )", i, R"( and 1?"}], )",
                   R"("chosen": [{"role": "assistant", "content": ")", i + 1, ".\"}], ",
                   R"("rejected": [{"role": "assistant", "content": "What?"}]})", "\n");
    }
    write_file(at("text.txt"), text);
    write_file(at("pairs.jsonl"), pairs);
    run_to(0, "tokenizer train ", at("text.txt"), " --vocab-size 320 --output ", at("t.model"));
  }
  std::string at(const std::string& name) const { return (directory_ / name).string(); }
  std::string build(int code, const std::string& flags) const {
    return run_to(code, "data build ", at("pairs.jsonl"), " --preferences --tokenizer ",
                  at("t.model"), " --force -o ", at("p.h5"), " ", flags);
  }
  static void expect_part(const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\nis not in\n" << text;
  }

  TemporaryDirectory directory_;
};

TEST_F(Preferences, AreBuiltShownAndLearnt) {
  expect_part(build(0, "--valid-fraction 0.2"), "30 pairs, conversations in the format plain; ");
  const auto shown = run_to(0, "data inspect ", at("p.h5"), " --show 2");
  expect_part(shown, " pairs: chosen, rejected\n");
  expect_part(shown, "and 1?\n\nAssistant: «What?»\n\n«</s>»\n");

  const std::string begin =
      "[model]\nhidden_size = 32\nnum_hidden_layers = 2\nnum_attention_heads = 4\n"
      "max_position_embeddings = 128\n[train]\nmax_steps = 3\nbatch_size = 4\n"
      "sequence_length = 64\nwarmup_steps = 1\nthreads = 1\ntensorboard = false\n";
  run_to(0, "data build ", at("text.txt"), " --tokenizer ", at("t.model"), " -o ", at("t.h5"));
  write_file(at("base.toml"), begin + cat("[data]\ncorpus = \"", at("t.h5"), "\"\n"));
  run_to(0, "train ", at("base.toml"), " -o ", at("base"));
  write_file(at("dpo.toml"),
             begin + cat("init_from = \"", at("base"), "\"\nlog_every = 1\n[data]\ncorpus = \"",
                         at("p.h5"), "\"\n[preference]\nmethod = \"dpo\"\n"));
  const auto told = run_to(0, "train ", at("dpo.toml"), " -o ", at("dpo"));
  expect_part(told, "compared with " + at("base"));
  expect_part(told, "rewards/margins");
  expect_part(told, "step 3  validation loss 0.6");
  EXPECT_EQ(told.find("perplexity"), std::string::npos) << told;
  expect_part(
      run_to(78, "train ", at("base.toml"), " --set data.corpus=", at("p.h5"), " -o ", at("x")),
      "set preference.method");
}

TEST_F(Preferences, MisuseIsToldWithItsPlace) {
  expect_part(build(64, "--chats"), "--chats");
  expect_part(build(65, "--max-tokens 4"), "of 30 pairs 30 do not fit into 4 tokens");
  write_file(at("pairs.jsonl"), "{\"chosen\": 1}\n");
  expect_part(build(65, ""), "pairs.jsonl:1: ");
}

}  // namespace
}  // namespace kvsmith
