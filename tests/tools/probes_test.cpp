// Probes of memory as a user asks for them, and trains on them.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "configs/head_gates.h"
#include "core/files.h"
#include "core/text.h"
#include "tests/support/temporary_directory.h"
#include "tests/tools/program.h"

namespace kvsmith {
namespace {

using Json = nlohmann::ordered_json;

/// A corpus, a configuration and a run of a few steps.
class Probes : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string text;
    for (int i = 0; i < 400; ++i)
      text += cat("Line ", i * 37 % 100, ": the cat sat on mat ", i % 7, ", and the dog saw it.\n");
    write_file(at("train.txt"), text);
    write_file(at("valid.txt"), text.substr(0, 4000));
    run("tokenizer train ", at("train.txt"), " --vocab-size 320 --output ", at("t.model"));
    run("data build ", at("train.txt"), " --valid ", at("valid.txt"), " --tokenizer ",
        at("t.model"), " --output ", at("c.h5"));
    write_file(at("run.toml"),
               cat("[model]\nhidden_size = 32\nnum_hidden_layers = 2\nnum_attention_heads = 4\n"
                   "num_key_value_heads = 2\nmax_position_embeddings = 128\n[data]\ncorpus = \"",
                   at("c.h5"),
                   "\"\n[train]\nmax_steps = 2\nbatch_size = 4\nsequence_length = 64\n"
                   "warmup_steps = 1\nvalidate_tokens = 128\nthreads = 1\ntensorboard = false\n"));
  }
  std::string at(const std::string& name) const { return (directory_ / name).string(); }
  template <class... Parts>
  std::string run(const Parts&... arguments) const {
    return run_to(0, arguments...);
  }

  TemporaryDirectory directory_;
};

TEST_F(Probes, AreEvaluatedBesidePerplexity) {
  run("train ", at("run.toml"), " --output ", at("run"));
  const auto evaluate = cat("evaluate ", at("run"), " --corpus ", at("c.h5"),
                            " --context 64 --max-tokens 64 --probe-samples 2 --probe-depth 0.5 ");
  const auto points_of = [&](const std::string& name, const std::string& flags) {
    const auto shown = run(evaluate, flags, " --json ", at(name));
    EXPECT_NE(shown.find("nats a token gained; "), std::string::npos) << shown;
    return Json::parse(read_file(at(name)))["probes"];
  };
  const Json grid =
      points_of("grid.json", "--probe passkey --probe mqar --probe-length 48 --probe-length 64");
  ASSERT_EQ(grid.size(), 4u);
  EXPECT_EQ(grid[3]["task"], "mqar");
  EXPECT_EQ(grid[3]["length"], 64);
  EXPECT_EQ(grid[3]["depth"], 0.5);
  EXPECT_EQ(grid[3]["samples"], 2);

  const Json stepwise = points_of("stepwise.json", "--probe passkey --probe-stepwise");
  ASSERT_EQ(stepwise.size(), 1u);
  EXPECT_EQ(stepwise[0]["length"], 64) << "the context";
  EXPECT_NEAR(stepwise[0]["nll"].get<double>(), grid[1]["nll"].get<double>(), 1e-4);
  EXPECT_NE(run_to(64, evaluate, "--probe paskey").find("did you mean \"passkey\"?"),
            std::string::npos);
}

TEST_F(Probes, TellWhichHeadsNeedAllOfTheirRows) {
  run("train ", at("run.toml"), " --output ", at("run"));
  const auto verb = cat("calibrate ", at("run"), " --corpus ", at("c.h5"), " --steps 10 --context ",
                        "60 --sinks 2 --threads 1 ");
  const auto calibrate = verb + "--method duo --window 8 --key-tokens 4 --output ";
  const auto shown = run(calibrate, at("gates.json"));
  for (const char* part :
       {"step 10/10  difference ", "layer  gates of key/value heads", " of 4 heads are above 0.5"})
    EXPECT_NE(shown.find(part), std::string::npos) << shown;
  const auto gates = read_head_gates(at("gates.json"));
  EXPECT_EQ(gates.context, 60);
  EXPECT_EQ(gates.steps, 10);
  ASSERT_EQ(gates.layers.size(), 2u);
  EXPECT_LT(gates.layers[1].gates[0], 1) << "regularisation draws gates down";

  run_to(73, calibrate, at("gates.json"));
  run(calibrate, at("gates.json"), " --force --quiet --seed 1");
  EXPECT_NE(read_head_gates(at("gates.json")).layers, gates.layers) << "other sequences";
  const auto misuse = [&](const std::string& more) {
    return run_to(64, verb, "--output ", at("other.json"), " ", more);
  };
  EXPECT_NE(misuse("--method duo --window 58").find("hide nothing in 60 tokens"),
            std::string::npos);
  EXPECT_NE(misuse("--method duo --window 8").find("or fewer key tokens"), std::string::npos);
  for (const char* flag : {"--window 0", "--learning-rate -1", "--regularisation x", "--seed a"})
    EXPECT_NE(misuse(cat("--method duo ", flag)).find(std::string(flag).substr(0, 6)),
              std::string::npos)
        << flag;
  EXPECT_NE(misuse("--method dou").find("duo"), std::string::npos);

  run("train ", at("run.toml"), " --set model.layer_types=sliding --set model.sliding_window=8",
      " --output ", at("sliding"));
  const auto text = run_to(78, "calibrate ", at("sliding"), " --method duo --corpus ", at("c.h5"),
                           " --output ", at("other.json"));
  EXPECT_NE(text.find("no key/value head can have a gate: layer 0 (sliding)"), std::string::npos);
}

TEST_F(Probes, AreACorpusToTrainOn) {
  const auto make = cat("data probes ", at("c.h5"), " --sequences 200 --length 40 --output ");
  run(make, at("p.h5"));
  run(make, at("q.h5"));
  EXPECT_EQ(read_file(at("p.h5")), read_file(at("q.h5")));
  run_to(73, make, at("p.h5"));
  run(make, at("p.h5"), " --force --seed 1 --task copy");
  EXPECT_NE(read_file(at("p.h5")), read_file(at("q.h5")));

  const Json made = Json::parse(run("data inspect ", at("q.h5"), " --verify --json"));
  EXPECT_EQ(made["splits"].size(), 1u);
  EXPECT_EQ(made["splits"]["train"]["documents"], 200);
  EXPECT_EQ(made["splits"]["train"]["tokens"], 200 * 41) << "each with its end-of-text";
  EXPECT_EQ(made["tokenizer"],
            Json::parse(run("data inspect ", at("c.h5"), " --json"))["tokenizer"]);
  run("train ", at("run.toml"), " --set 'data.corpus=[\"", at("c.h5"), "\", \"", at("q.h5"),
      "\"]' --set 'data.weights=[9, 1]' --output ", at("mixed"));
  EXPECT_NE(run_to(64, make, at("r.h5"), " --length 12").find("are needed"), std::string::npos);
}

}  // namespace
}  // namespace kvsmith
