// The program as a user runs it, the whole way from text to report.
#include <algorithm>
#include <csignal>
#include <functional>
#include <string>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/wait.h>
#include <unistd.h>

#include "core/files.h"
#include "core/text.h"
#include "tests/support/temporary_directory.h"
#include "tests/tools/program.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// A corpus and a configuration, made once by the program itself.
class Workflow : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory = new TemporaryDirectory;
    std::string text;
    for (int i = 0; i < 600; ++i)
      text += cat("Line ", i * 37 % 100, ": the cat sat on mat ", i % 7, ", and the dog saw it.\n");
    write_file(at("train.txt"), text);
    write_file(at("valid.txt"), text.substr(0, 4000));
    expect_ok(
        cat("tokenizer train ", at("train.txt"), " --vocab-size 320 --output ", at("t.model")));
    expect_ok(cat("data build ", at("train.txt"), " --valid ", at("valid.txt"), " --tokenizer ",
                  at("t.model"), " --output ", at("c.h5")));
    write_file(
        at("run.toml"),
        cat("[model]\nhidden_size = 32\nnum_hidden_layers = 2\nnum_attention_heads = "
            "4\nnum_key_value_heads = 2\n"
            "max_position_embeddings = 128\n[data]\ncorpus = \"",
            at("c.h5"),
            "\"\n"
            "[train]\nmax_steps = 60\nbatch_size = 4\nsequence_length = 32\nwarmup_steps = "
            "4\ncheckpoint_every = 5\n"
            "learning_rate = 1e-2\npeak_flops = 1e12\nvalidate_tokens = 512\nthreads = 1\n"));
    expect_ok(cat("train ", at("run.toml"), " --output ", at("run")));
  }
  static void TearDownTestSuite() { delete directory; }
  static std::string at(const std::string& name) { return (*directory / name).string(); }
  static Outcome expect_ok(const std::string& arguments) {
    auto got = kvsmith(arguments);
    EXPECT_EQ(got.code, 0) << arguments << "\n" << got.text;
    return got;
  }
  static std::string losses(const std::string& run) {
    std::string out;
    std::istringstream lines(read_file(at(run) + "/metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      const Json json = Json::parse(line);
      out += cat(json["step"], " ", json["loss"].dump(), " ", json["grad_norm"].dump(), "\n");
    }
    return out;
  }

  static TemporaryDirectory* directory;
};
TemporaryDirectory* Workflow::directory = nullptr;

TEST_F(Workflow, FromTextToReport) {
  expect_ok(cat("evaluate ", at("run"), " --corpus ", at("c.h5"), " --context 64 --unigram ",
                "--name 'r\xe9' --json ", at("run"), "/evaluation.json"));
  const Json json = Json::parse(read_file(at("run") + "/evaluation.json"));
  EXPECT_EQ(json["name"], "r\xef\xbf\xbd");
  EXPECT_EQ(json["cache"]["bytes_measured"], json["cache"]["bytes_formula"]);
  EXPECT_EQ(json["cache"]["bytes_measured"],
            64 * 2 * 2 * 2 * 8 * 4);  // tokens, layers, k and v, heads, width, fp32
  EXPECT_LT(json["perplexity"], json["unigram_perplexity"]);
  EXPECT_NE(expect_ok(cat("evaluate ", at("run"), " --corpus ", at("c.h5"),
                          " --context 129 --max-tokens 300"))
                .text.find("context 129 is longer than the model's max_position_embeddings, 128"),
            std::string::npos);
  EXPECT_EQ(kvsmith(cat("evaluate ", at("run"), " --corpus ", at("c.h5"), " --json ", at("run"),
                        "/evaluation.json"))
                .code,
            73);
  expect_ok(cat("report ", at("run"), " --output ", at("report.html")));
  EXPECT_EQ(Json::parse(read_file(at("report.json")))["runs"][0]["perplexity"], json["perplexity"]);
  EXPECT_NE(read_file(at("report.html")).find("<svg"), std::string::npos);
  EXPECT_TRUE(fs::exists(at("report.csv")));
}

TEST_F(Workflow, FromAPretrainedModelToAHealedOneWithASmallerCache) {
  const auto has = [](const Outcome& got, const std::string& part) {
    EXPECT_NE(got.text.find(part), std::string::npos) << part << " is not in\n" << got.text;
  };
  expect_ok(cat("export ", at("run"), " --output ", at("pretrained")));
  const auto scored =
      cat("import ", at("pretrained"), " --text ", at("valid.txt"), " --text-context 64 --output ");
  has(expect_ok(scored + at("imported")), ": looks like a language model\n");
  has(expect_ok(scored + at("narrow") + " --dtype bf16"),
      ": looks like a language model (in bf16)");
  EXPECT_EQ(kvsmith(cat("import ", at("pretrained"), " --output ", at("imported"))).code, 73);

  write_file(at("mqa.toml"), "[model]\nnum_key_value_heads = 1\n");
  const auto convert = cat("convert ", at("imported"), " --calibration ", at("train.txt"),
                           " --calibration-context 64 --output ", at("converted"), " --to ");
  write_file(at("three.toml"), "[model]\nnum_key_value_heads = 4\n");
  EXPECT_EQ(kvsmith(convert + at("three.toml")).code, 78);
  EXPECT_FALSE(fs::exists(at("converted")));
  const auto converted = expect_ok(convert + at("mqa.toml"));
  has(converted, "before  GQA 4/2: 256 bytes a token at 64");
  has(converted, "after   MQA 4: 128 bytes a token at 64");
  has(converted, "k_proj: fit of 2 heads each of layers 0");
  has(converted, "queries and outputs adapted to these; everything else as it was");

  write_file(at("heal.toml"), cat("[data]\ncorpus = \"", at("c.h5"),
                                  "\"\n[train]\nmax_steps = 10\nbatch_size = 4\nsequence_length = "
                                  "32\nwarmup_steps = 2\npeak_flops = 1e12\nthreads = 1\n"));
  expect_ok(cat("train ", at("converted"), "/config.toml ", at("heal.toml"),
                " --set train.init_from=", at("converted"),
                " --set distill.teacher=", at("imported"), " --output ", at("healed")));
  EXPECT_NE(read_file(at("healed") + "/metrics.jsonl").find("\"distillation_kl\":"),
            std::string::npos);
  expect_ok(cat("export ", at("healed"), " --format gguf --output ", at("healed.gguf")));
  expect_ok(cat("generate ", at("healed.gguf"), " --prompt 'the cat' -n 4 --temperature 0"));
}

TEST_F(Workflow, ConvertReadsTextsAsItIsTold) {
  const auto has = [](const Outcome& got, const char* part) {
    return got.text.find(part) != std::string::npos;
  };
  write_file(at("one.toml"), "[model]\nnum_key_value_heads = 1\n");
  const auto verb = cat(" --to ", at("one.toml"), " --output ", at("one"),
                        " --force --calibration ", at("train.txt"), " --calibration-tokens 2000 ");
  const auto convert = [&](const char* flags) {
    return expect_ok(cat("convert ", at("run"), verb, flags));
  };
  const auto usual = convert("");
  EXPECT_TRUE(has(usual, "of train.txt, context 128")) << usual.text;
  EXPECT_FALSE(has(usual, "max_position_embeddings")) << usual.text;
  const auto score = convert("--score-tokens 40 --score-context 16");
  EXPECT_TRUE(has(score, "over 37 tokens of train.txt, context 16")) << score.text;
  const auto beyond = convert("--calibration-context 200");
  EXPECT_TRUE(has(beyond, "context 200 is longer than the model's max_position_embeddings, 128"));
  EXPECT_TRUE(has(beyond, "of train.txt, context 200")) << beyond.text;

  expect_ok(cat("export ", at("run"), " --output ", at("unread")));
  fs::remove(at("unread") + "/tokenizer.model");
  Json tokenizer = Json::parse(read_file(at("unread") + "/tokenizer.json"));
  tokenizer["model"]["type"] = "WordPiece";
  write_file(at("unread") + "/tokenizer.json", tokenizer.dump());
  const auto refused = kvsmith(cat("convert ", at("unread"), verb));
  EXPECT_EQ(refused.code, 78);
  EXPECT_TRUE(has(refused, "the model's tokenizer cannot be used: ")) << refused.text;
}

TEST_F(Workflow, CheckpointsOfNoTrainingAreListedAndVerified) {
  expect_ok(cat("import ", at("run"), " --output ", at("untrained")));
  const auto listed = expect_ok("checkpoint list " + at("untrained")).text;
  EXPECT_TRUE(listed.starts_with("untrained  ")) << listed;
  EXPECT_EQ(listed.find("tokens"), std::string::npos) << listed;
  EXPECT_NE(expect_ok("checkpoint list " + at("run")).text.find(" tokens"), std::string::npos);
  const Json json = Json::parse(expect_ok("checkpoint verify --json " + at("untrained")).text);
  EXPECT_EQ(json["complete"], true);
  EXPECT_FALSE(json.contains("tokens"));
}

TEST_F(Workflow, HeadDistancesProposeALineOfTheConfiguration) {
  const std::string verb = cat("head-distances ", at("run"), " --corpus ", at("c.h5"));
  const auto shown =
      expect_ok(cat(verb, " --max-tokens 200 --threshold 2.1 --json ", at("distances.json")));
  // no distance is above 2, so all heads of layer 1 are named
  EXPECT_NE(shown.text.find("reused_heads = [\"1:0\", \"1:1\"]"), std::string::npos) << shown.text;
  const Json json = Json::parse(read_file(at("distances.json")));
  EXPECT_EQ(json["heads"].size(), 2u);
  EXPECT_EQ(json["reused_heads"], Json::array({"1:0", "1:1"}));
  const auto config = cat(at("run.toml"), " --set model.layer_types=autoencoded --set ");
  expect_ok(cat("estimate ", config, "'model.reused_heads=[\"1:0\", \"1:1\"]'"));
  EXPECT_EQ(kvsmith(verb + " --threshold 0").text.find("reused_heads = [\""), std::string::npos);
}

/// `kvsmith train` in a process of its own.
class TrainingProcess {
 public:
  TrainingProcess(const std::string& config, const std::string& run, const char* set) {
    pid_ = fork();
    if (pid_ == 0) {
      execl(KVSMITH_BINARY, "kvsmith", "train", config.c_str(), "--quiet", "--output", run.c_str(),
            "--set", set, nullptr);
      _exit(127);
    }
  }
  /// Waits for `there`; false when the process ends before.
  bool run_until(const std::function<bool()>& there) const {
    int status = 0;
    while (!there()) {
      if (waitpid(pid_, &status, WNOHANG) == pid_) return false;
      usleep(500);
    }
    return true;
  }
  /// Its status, as of waitpid.
  int end_with(int signal) const {
    int status = 0;
    kill(pid_, signal);
    waitpid(pid_, &status, 0);
    return status;
  }

 private:
  pid_t pid_ = 0;
};

int64_t lines_of(const fs::path& path) {
  if (!fs::exists(path)) return 0;
  const std::string text = read_file(path);
  return std::ranges::count(text, '\n');
}

TEST_F(Workflow, KilledAtAnyInstantItContinuesToTheSameNumbers) {
  constexpr int kCheckpointEvery = 5;
  const fs::path metrics = at("killed") + "/metrics.jsonl";
  int between = 0;
  for (const int line : {7, 22, 41}) {
    const TrainingProcess process(at("run.toml"), at("killed"), "train.log_every=1");
    ASSERT_TRUE(process.run_until([&] { return lines_of(metrics) >= line; }));
    process.end_with(SIGKILL);
    between += lines_of(metrics) % kCheckpointEvery != 0;
  }
  EXPECT_GT(between, 0) << "no kill fell between two checkpoints";
  expect_ok(cat("train ", at("run.toml"), " --output ", at("killed")));
  EXPECT_EQ(losses("killed"), losses("run"));
  expect_ok(cat("checkpoint verify ", at("killed")));
}

TEST_F(Workflow, ASignalSavesAndExitsWithItsNumber) {
  const std::string run = at("signalled");
  const TrainingProcess process(at("run.toml"), run, "train.max_steps=100000");
  ASSERT_TRUE(process.run_until([&] { return fs::exists(run + "/latest"); }));
  const int status = process.end_with(SIGTERM);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 143);
  expect_ok("checkpoint verify " + run);
}

TEST_F(Workflow, VerifyFindsDamage) {
  fs::copy(at("run"), at("copy"), fs::copy_options::recursive | fs::copy_options::copy_symlinks);
  write_file(at("copy") + "/latest/model.safetensors", "x");
  const auto got = kvsmith("checkpoint verify " + at("copy"));
  EXPECT_EQ(got.code, 65);
  EXPECT_NE(got.text.find("BAD: model.safetensors has 1 bytes"), std::string::npos) << got.text;
  EXPECT_EQ(kvsmith("checkpoint list " + at("copy")).code, 0);
}

TEST_F(Workflow, LogitsOfBothProtocolsAndOfAnExportAgree) {
  write_file(at("ids.json"), "[1, 50, 60, 70, 80, 90]");
  expect_ok(cat("export ", at("run"), " --output ", at("hf")));
  expect_ok(cat("export ", at("run"), " --format kvsmith --output ", at("one.safetensors")));
  const auto logits = [&](const std::string& model, const std::string& protocol,
                          const std::string& name) {
    expect_ok(cat("logits ", model, " --tokens ", at("ids.json"), " --protocol ", protocol,
                  " --output ", at(name)));
    return read_file(at(name));
  };
  const auto parallel = logits(at("run"), "parallel", "a.npy");
  EXPECT_EQ(logits(at("hf"), "parallel", "b.npy"), parallel);
  EXPECT_EQ(logits(at("one.safetensors"), "parallel", "c.npy"), parallel);
  const auto decode = logits(at("run"), "decode", "d.npy");
  ASSERT_EQ(decode.size(), parallel.size());
  constexpr size_t kHeader = 128;
  for (size_t i = kHeader; i < parallel.size(); i += 4) {
    float a = 0, b = 0;
    std::memcpy(&a, &parallel[i], 4);
    std::memcpy(&b, &decode[i], 4);
    ASSERT_NEAR(a, b, 1e-4) << i;
  }
  write_file(at("bad.json"), "[1, 99999]");
  EXPECT_EQ(
      kvsmith(cat("logits ", at("run"), " --tokens ", at("bad.json"), " --output ", at("e.npy")))
          .code,
      65);
  EXPECT_FALSE(fs::exists(at("e.npy")));
}

TEST_F(Workflow, GenerateIsRepeatableAndCountsItsCache) {
  const std::string command =
      cat("generate ", at("run"), " --prompt 'the cat' -n 12 --seed 3 --verbose");
  const auto first = expect_ok(command);
  EXPECT_TRUE(first.text.starts_with("the cat")) << first.text;
  EXPECT_NE(first.text.find("KV cache"), std::string::npos);
  const auto text = [](const Outcome& o) {
    return o.text.substr(0, o.text.rfind('\n', o.text.size() - 2));
  };
  EXPECT_EQ(text(expect_ok(command)), text(first));
  // with room for everything a policy changes nothing
  EXPECT_EQ(text(expect_ok(command + " --cache h2o budget_tokens=200")), text(first));
  const auto refused = kvsmith(command + " --temperature -1");
  EXPECT_EQ(refused.code, 64);
  EXPECT_TRUE(refused.text.starts_with("kvsmith: error: ")) << refused.text;
}

TEST_F(Workflow, AChatShowsAnswersAlone) {
  write_file(at("prompts.txt"), "the cat\nthe dog\n");
  const auto command = cat("generate ", at("run"), " --chat -n 6 --temperature 0 ");
  const auto file = cat(command, "--prompts ", at("prompts.txt"));
  const auto answer = expect_ok(command + "--prompt 'the cat'").text;
  EXPECT_TRUE(expect_ok(file).text.starts_with("[0] " + answer + "[1] "));
  const auto lines = expect_ok(file + " --json").text;
  const Json json = Json::parse(lines.substr(0, lines.find('\n')));
  EXPECT_FALSE(json.contains("prompt"));
  EXPECT_EQ(json["text"].get<std::string>() + "\n", answer);
  const auto prompt_tokens = [&](const char* system) {
    const auto text = expect_ok(cat(command, "--verbose --prompt x --system ", system)).text;
    return std::stoi(text.substr(text.rfind('\n', text.size() - 2) + 1));
  };
  EXPECT_GT(prompt_tokens("'the dog saw it'"), prompt_tokens("''"));
}

TEST_F(Workflow, DryRunPrintsTheResolvedConfigurationAndStartsNothing) {
  const auto got = expect_ok(cat("train ", at("run.toml"), " --output ", at("dry"), " --dry-run"));
  EXPECT_NE(got.text.find("vocab_size = 320"), std::string::npos) << got.text;
  EXPECT_NE(got.text.find("KV cache   256 bytes a token"), std::string::npos) << got.text;
  EXPECT_FALSE(fs::exists(at("dry")));
}

}  // namespace
}  // namespace kvsmith
