// What the program says to any command line: exit codes, messages, help.
#include <array>
#include <cstdio>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/files.h"
#include "core/text.h"
#include "tests/support/temporary_directory.h"
#include "tests/tools/program.h"

namespace kvsmith {
namespace {

struct Misuse {
  const char* arguments;
  int code;
  const char* part;
};

TEST(CommandLine, MisuseGetsOneMessageAndItsExitCode) {
  const TemporaryDirectory directory;
  write_file(directory / "empty.toml", "");
  for (const Misuse& m : std::vector<Misuse>{
           {"", 64, "subcommand"},
           {"trian x.toml", 64, "did you mean \"train\"?"},
           {"train", 64, "config is required"},
           {"train x.toml --outptu r", 64, "did you mean \"--output\"?"},
           {"train x.toml --res auto", 64, "did you mean \"--resume\"?"},
           {"data biuld x", 64, "did you mean \"build\"?"},
           {"data build x --valid-fraction 10 -o c.h5", 64, "see `kvsmith data build --help`"},
           {"xyzzy", 64, "no verb \"xyzzy\"; valid: tokenizer, data, import"},
           {"help data biuld", 64, "did you mean \"build\"?"},
           {"train no-such.toml --output r", 66, "no-such.toml"},
           {"evaluate no-such --corpus c.h5", 66, "c.h5"},
           {"generate no-such -p x", 66, "no such checkpoint"},
           {"generate no-such -p x --system y", 64, "--chat"},
           {"generate no-such -p x --cache h3o", 78, "did you mean \"h2o\"?"},
           {"chat no-such", 66, "no such checkpoint"},
           {"chat no-such --cache h3o", 78, "did you mean \"h2o\"?"},
           {"chat no-such --adaptor x", 64, "did you mean \"--adapter\"?"},
           {"serve no-such", 66, "no such checkpoint"},
           {"serve no-such --cache-budget 5", 64, "--cache-budget: cannot read \"5\""},
           {"serve no-such --port 70000", 64, "see `kvsmith serve --help`"},
           {"speed no-such", 66, "no such checkpoint"},
           {"checkpoint list no-such", 66, "no such directory"},
           {"report --output r.html", 64, "runs is required"},
           {"estimate EMPTY --set model.vocab_size=100 --memory 3XB", 64, "write it as 24GiB"},
           {"estimate EMPTY --set model.vocab_size=100 --memory 24", 64, "write it as 24GiB"},
           {"estimate EMPTY --set data.corpus=no.h5", 66, "or give --set model.vocab_size=N"},
           {"train EMPTY --set data.corpus=no.h5 --dry-run", 66, "`kvsmith data build`, or give"},
           {"estimate EMPTY --set model.hiden_size=3", 78, "did you mean \"model.hidden_size\"?"},
           {"data inspect /dev/null", 65, "/dev/null"},
           {"tokenizer train no-such --output t.model", 66, "no-such"},
           {"tokenizer encode no-such", 66, "no-such"},
       }) {
    std::string arguments = m.arguments;
    if (const auto at = arguments.find("EMPTY"); at != std::string::npos)
      arguments.replace(at, 5, (directory / "empty.toml").string());
    const auto got = kvsmith(arguments);
    EXPECT_EQ(got.code, m.code) << m.arguments << "\n" << got.text;
    EXPECT_NE(got.text.find(m.part), std::string::npos) << m.arguments << "\n" << got.text;
    EXPECT_TRUE(got.text.starts_with("kvsmith: error: ")) << got.text;
  }
}

TEST(CommandLine, EveryVerbHasHelp) {
  for (const char* verb : {"",
                           "tokenizer train",
                           "tokenizer encode",
                           "data build",
                           "data inspect",
                           "data probes",
                           "train",
                           "evaluate",
                           "logits",
                           "head-distances",
                           "calibrate",
                           "generate",
                           "chat",
                           "serve",
                           "merge",
                           "export",
                           "checkpoint list",
                           "checkpoint verify",
                           "estimate",
                           "speed",
                           "report",
                           "reference",
                           "env",
                           "help",
                           "version",
                           "completion"}) {
    const auto got = kvsmith(std::string(verb) + " --help");
    EXPECT_EQ(got.code, 0) << verb;
    EXPECT_NE(got.text.find("Usage"), std::string::npos) << verb;
  }
  EXPECT_NE(kvsmith("train --help").text.find("train.learning_rate = 0.001: peak learning rate"),
            std::string::npos);
}

TEST(CommandLine, HelpAndVersionAreVerbsAndFlags) {
  EXPECT_EQ(kvsmith("help").text, kvsmith("--help").text);
  EXPECT_EQ(kvsmith("help data build").text, kvsmith("data build --help").text);
  EXPECT_EQ(kvsmith("version").text, kvsmith("--version").text);
  EXPECT_EQ(kvsmith("version").text, "kvsmith " KVSMITH_VERSION "\n");
}

TEST(CommandLine, EstimateSaysWhenTheWeightsAloneDoNotFit) {
  const TemporaryDirectory directory;
  write_file(directory / "tiny.toml", "[model]\nvocab_size = 100\n");
  const auto estimate = [&](const char* memory) {
    return kvsmith(cat("estimate ", (directory / "tiny.toml").string(), " --memory ", memory)).text;
  };
  EXPECT_NE(estimate("1mb").find("the weights alone take"), std::string::npos);
  EXPECT_EQ(estimate("1TiB").find("the weights alone take"), std::string::npos);
}

TEST(CommandLine, CompletionKnowsVerbsAndFlags) {
  const TemporaryDirectory directory;
  const auto script = kvsmith("completion").text;
  write_file(directory / "complete", script +
                                         "COMP_WORDS=(kvsmith data build --val); COMP_CWORD=3; "
                                         "_kvsmith; echo \"${COMPREPLY[@]}\"\n");
  FILE* pipe = popen(("bash " + (directory / "complete").string()).c_str(), "r");
  std::array<char, 256> line{};
  ASSERT_NE(std::fgets(line.data(), line.size(), pipe), nullptr);
  pclose(pipe);
  EXPECT_EQ(std::string(line.data()), "--valid --valid-fraction\n");
}

}  // namespace
}  // namespace kvsmith
