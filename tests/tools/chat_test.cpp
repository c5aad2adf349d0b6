// The program as somebody talks with it: lines through a pipe.
#include <regex>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/files.h"
#include "core/text.h"
#include "tests/support/temporary_directory.h"
#include "tests/tools/program.h"

namespace kvsmith {
namespace {

/// A small model that continues lines, and two adapters of it.
class ChatVerb : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory = new TemporaryDirectory;
    std::string text;
    for (int i = 0; i < 300; ++i)
      text += cat("Line ", i * 37 % 100, ": the cat sat on mat ", i % 7, ", and the dog saw it.\n");
    write_file(at("train.txt"), text);
    write_file(at("valid.txt"), text.substr(0, 2000));
    run_to(0, "tokenizer train ", at("train.txt"), " --vocab-size 320 --output ", at("t.model"));
    run_to(0, "data build ", at("train.txt"), " --valid ", at("valid.txt"), " --tokenizer ",
           at("t.model"), " -o ", at("c.h5"));
    write_file(at("run.toml"),
               cat("[model]\nhidden_size = 32\nnum_hidden_layers = 2\nnum_attention_heads = 4\n"
                   "num_key_value_heads = 2\nmax_position_embeddings = 8000\n[data]\ncorpus = \"",
                   at("c.h5"),
                   "\"\n[train]\nmax_steps = 20\nbatch_size = 4\nsequence_length = 32\n"
                   "warmup_steps = 2\nlearning_rate = 1e-2\nthreads = 1\ntensorboard = false\n"));
    run_to(0, "train ", at("run.toml"), " -o ", at("base"));
    for (const char* name : {"red", "blue"})
      run_to(0, "train ", at("run.toml"), " -o ", at(name), " --set train.init_from=", at("base"),
             " train.learning_rate=0.1 train.seed=", name == std::string("red") ? 1 : 2,
             " lora.rank=4");
  }
  static void TearDownTestSuite() { delete directory; }
  static std::string at(const std::string& name) { return (*directory / name).string(); }
  static std::string said(const std::vector<std::string>& lines, const std::string& flags = "") {
    write_file(at("in.txt"), join(lines, "\n") + "\n");
    return run_to(0, "chat ", at("base"), " --threads 1 -n 8 --temperature 0 ", flags, " < ",
                  at("in.txt"));
  }
  static void expect_part(const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\nis not in\n" << text;
  }

  static TemporaryDirectory* directory;
};
TemporaryDirectory* ChatVerb::directory = nullptr;

TEST_F(ChatVerb, AnswersAsGenerateDoesAndTellsWhatItCosts) {
  const auto alone = run_to(0, "generate ", at("base"),
                            " --threads 1 -n 8 --temperature 0 --chat --prompt 'the cat'");
  const auto got = said({"the cat", "", "/stats", "the dog", "/stats", "/quit", "unread"});
  expect_part(got, "base, context 8000, cache full; /help tells more\n" + alone);
  EXPECT_EQ(got.find('>'), std::string::npos) << got;  // no prompt where nobody types
  std::smatch match;
  ASSERT_TRUE(std::regex_search(
      got, match,
      std::regex("cache    full: (\\d+) bytes used of \\d+ reserved, by the formula "
                 "(\\d+)\ncontext  \\d+ of 8000 tokens\nlast     \\d+ tokens read")))
      << got;
  EXPECT_EQ(match[1], match[2]);
  expect_part(got, "tokens/s, in 2 answers\n");
}

TEST_F(ChatVerb, OnlyAnswersGoToStandardOutput) {
  write_file(at("in.txt"), "the cat\n/stats\n/nonsense\n");
  const auto got =
      run_command(cat("(", KVSMITH_BINARY, " chat ", at("base"),
                      " --threads 1 -n 8 --temperature 0 < ", at("in.txt"), " 2>/dev/null)"));
  EXPECT_EQ(got.code, 0);
  EXPECT_EQ(got.text, run_to(0, "generate ", at("base"),
                             " --threads 1 -n 8 --temperature 0 --chat --prompt 'the cat'"));
}

TEST_F(ChatVerb, TheCacheChangesWhileItRuns) {
  const auto got =
      said({"the cat sat on mat", "/cache", "/cache h2o budget_tokens=12", "/cache budget_tokens=1",
            "/cache h3o", "/cache codec_k=\"int8\"", "and the dog", "/stats"});
  expect_part(got, "cache full: ");
  expect_part(got, "cache h2o 12: ");
  expect_part(got, "all is read anew for each question");
  expect_part(got, "a budget of 1 tokens is below");
  expect_part(got, "did you mean \"h2o\"?");
  expect_part(got, "cache h2o 12, int8/model: ");
  expect_part(got, "\ncache    h2o 12, int8/model: ");
}

TEST_F(ChatVerb, CommandsSayWhatIsWrongAndTheChatGoesOn) {
  const auto got = said({"/stat", "/set temprature 1", "/set temperature hot", "/set top-p 2",
                         "/set temperature", "/set top-k 5", "/adapter green", "/undo", "//slash",
                         "/undo", "/undo", "/system Be brief.", "/reset", "/help", "the cat",
                         cat("too long ", std::string(30000, 'z')), "/stats"});
  expect_part(got, "no command \"/stat\"; did you mean \"/stats\"?");
  expect_part(got, "no setting \"temprature\"; did you mean \"temperature\"?");
  expect_part(got, "Could not convert: --temperature = hot");
  expect_part(got, "top-p 2; expected above 0, at most 1");
  expect_part(got, "write /set temperature 0.7");
  expect_part(got, "temperature 0, top-k 5, top-p 1, seed 0, max-new-tokens 8\n");
  expect_part(got, "no adapter \"green\"");
  expect_part(got, "nothing was said");
  expect_part(got, "0 questions are left\n");
  expect_part(got, "/cache [WORDS]");
  expect_part(got, "/reset begins a new one");
  expect_part(got, "in 2 answers\n");
}

TEST_F(ChatVerb, AdaptersAreChosenByName) {
  const auto single = [](const std::string& name) {
    return run_to(0, "generate ", at(name),
                  " --threads 1 -n 8 --temperature 0 --chat --prompt 'the cat'");
  };
  const std::string flags = cat("--adapter ", at("red"), " --adapter b=", at("blue"));
  const auto got = said({"the cat", "/reset", "/adapter b", "the cat", "/reset", "/adapter none",
                         "the cat", "/adapter"},
                        flags);
  EXPECT_NE(single("red"), single("base"));
  EXPECT_NE(single("red"), single("blue"));
  EXPECT_EQ(got, cat("red, context 8000, cache full; /help tells more\n", single("red"),
                     "(cut after 8 tokens; /set max-new-tokens N)\na new conversation\n",
                     "b, context 8000, cache full\n", single("blue"),
                     "(cut after 8 tokens; /set max-new-tokens N)\na new conversation\n",
                     "base, context 8000, cache full\n", single("base"),
                     "(cut after 8 tokens; /set max-new-tokens N)\n",
                     "answers: base; choose one of: none, red, b\n"));
  const std::string generate = cat("generate ", at("base"), " --threads 1 -n 8 --temperature 0 ",
                                   "--chat --prompt 'the cat' ", flags);
  EXPECT_EQ(run_to(0, generate), cat("red:\n", single("red"), "b:\n", single("blue")));
  expect_part(run_to(0, generate, " --json"), R"({"adapter":"b","text":)");
  expect_part(run_to(78, "generate ", at("red"), " --prompt x --adapter ", at("blue")),
              "an adapter of other weights");
  expect_part(run_to(66, "serve ", at("base"), " --adapter x=", at("nowhere")), "no such adapter");
}

TEST_F(ChatVerb, CtrlCEndsAnAnswerAndNotTheProgram) {
  write_file(at("in.txt"), "the cat\n/stats\n");
  write_file(at("interrupt.sh"),
             cat(KVSMITH_BINARY, " chat ", at("base"), " --threads 1 -n 7000 --temperature 0 < ",
                 at("in.txt"), " > ", at("out.txt"), " 2>&1 & pid=$!\n",
                 "for i in $(seq 300); do\n", "  [ $(wc -c < ", at("out.txt"),
                 ") -gt 200 ] && break; sleep 0.1\n", "done\nkill -INT $pid; wait $pid\n"));
  EXPECT_EQ(run_command("sh " + at("interrupt.sh")).code, 0);
  const auto got = read_file(at("out.txt"));
  expect_part(got, "\n(stopped)\nmodel    base\n");
}

}  // namespace
}  // namespace kvsmith
