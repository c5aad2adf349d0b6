#include "configs/run_config.h"

#include <fstream>

#include "core/files.h"
#include "core/text.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_directory.h"

namespace kvsmith {
namespace {

RunConfig parse(const std::string& text) { return parse_run_config(text, "t.toml"); }

struct Bad {
  const char* text;
  const char* part;
};

class BadConfig : public ::testing::TestWithParam<Bad> {};

TEST_P(BadConfig, IsRefusedWithThePlaceAndTheReason) {
  expect_error([] { parse(GetParam().text); }, ExitCode::kConfig, GetParam().part);
}

INSTANTIATE_TEST_SUITE_P(
    All,
    BadConfig,
    ::testing::Values(
        Bad{"[model]\nhiden_size = 3",
            "t.toml:2:1: unknown key \"model.hiden_size\"; did you mean \"model.hidden_size\"?"},
        Bad{"[modle]\nhidden_size = 3", "did you mean \"model.hidden_size\"?"},
        Bad{"[zzz]\nqqqqqqqqqq = 3", "valid: model, data, train"},
        Bad{"[train]\nhidden_size = 3", "did you mean \"model.hidden_size\"?"},
        Bad{"[model]\nqqqqqqqqqq = 3", "keys of [model]: vocab_size, hidden_size, "},
        Bad{"seed = 3", "unknown key \"seed\"; write train.seed"},
        Bad{"sed = 3", "unknown key \"sed\"; write train.seed"},
        Bad{"[model]\n\n  hidden_size = \"big\"",
            "t.toml:3:3: model.hidden_size: found \"big\", expected a whole number from 1"},
        Bad{"[model]\nhidden_size = 1.5", "found 1.5"},
        Bad{"[model]\nhidden_size = 0", "found 0"},
        Bad{"[model]\nhidden_size = -4", "found -4"},
        Bad{"[model]\ntie_word_embeddings = 1", "expected true or false"},
        Bad{"[train]\nlearning_rate = nan", "not finite"},
        Bad{"[train]\nlearning_rate = inf", "not finite"},
        Bad{"[train]\nlearning_rate = \"fast\"", "expected a number from 0 to 10"},
        Bad{"[train]\nlr_scheduler = \"cosin\"",
            "one of \"constant\" \"linear\" \"cosine\" \"wsd\""},
        Bad{"[train]\nprecision = \"fp16\"", "\"fp32\" \"bf16\""},
        Bad{"[data]\ncorpus = [1, 2]", "a list, each item a string"},
        Bad{"[data]\ncorpus = \"a\"\nweights = [1, 2]",
            "t.toml:3:1: data.weights: 2 weights for 1 corpora"},
        Bad{"[model]\nnum_attention_heads = 9\nnum_key_value_heads = 6",
            "t.toml:3:1: model.num_key_value_heads: 6 key/value heads do not divide 9 query heads; "
            "choose one of 1, 3, 9"},
        Bad{"[model]\nhidden_size = 3\nnum_attention_heads = 4", "too small"},
        Bad{"[model]\nhidden_size = 3\nnum_attention_heads = 4\nlayer_types = \"bounded\"\n"
            "memory_capacity_bytes = 100",
            "too small"},
        Bad{"[model]\nhead_dim = 7", "head_dim 7 is odd"},
        Bad{"[model]\nlayer_types = \"gsa\"\nnum_slots = 0",
            "t.toml:3:1: model.num_slots: layer 0 is gsa, which remembers nothing but its slots"},
        Bad{"[model]\nlayer_types = [\"full\", \"gla\", \"full\", \"full\"]\n"
            "kv_source_layers = [0, 1, 1, 3]",
            "layer 2 (full) reads layer 1 (gla), which keeps something else"},
        Bad{"[train]\nbatch_size = 6\nmicro_batch_size = 4",
            "does not divide batch_size 6; choose one of 1, 2, 3, 6"},
        Bad{"[train]\nsequence_length = 4096", "longer than max_position_embeddings 2048"},
        Bad{"[train]\nmin_learning_rate = 1", "above learning_rate"},
        Bad{"[train]\nmax_steps = 10",
            "train.warmup_steps (default): warmup_steps 50 is more than the 10 steps"},
        Bad{"[train]\nreconstruction_loss = 1",
            "t.toml:2:1: train.reconstruction_loss: no layer has codes to reconstruct from"},
        Bad{"[train]\nreconstruction_loss = -1", "found -1"},
        Bad{"[train]\nkv_loss = 0.1",
            "t.toml:2:1: train.kv_loss: no layer reads rows from further up"},
        Bad{"[model]\npattern = \"lckv-sandwich-bottom\"\n[train]\nkv_loss = 0.1",
            "no layer reads rows from further up"},
        Bad{"[model]\npattern = \"lckv\"\nforward_passes = 0\nbackward_passes = 1\n[train]\n"
            "kv_loss = 0.1",
            "train.kv_loss: compares two passes, and there is one"},
        Bad{"[train]\ntrainable = [1]", "a list, each item a string"},
        Bad{"[model]\nhidden_size = 3\nhidden_size = 4", "t.toml:3"},
        Bad{"[model\nhidden_size = 3", "t.toml:1"},
        Bad{"[model]\nhidden_size = ", "t.toml:2"},
        Bad{"[model]\nx = \"unterminated", "t.toml:2"},
        Bad{"[model.deep]\nhidden_size = 3", "nested too deep"},
        Bad{"[model]\nhidden_size = 2020-01-01", "a kind that no key takes"},
        Bad{"include = 3", "include is not a file name"}));

TEST(RunConfig, ReportsAllProblemsAtOnce) {
  try {
    parse("[model]\nhiden_size = 1\n[train]\nseed = \"x\"");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("t.toml:2:1"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("t.toml:4:1"), std::string::npos) << error.what();
  }
}

TEST(RunConfig, FillsInWhatIsLeftOut) {
  const auto config = parse("[model]\nhidden_size = 96\nnum_attention_heads = 6");
  EXPECT_EQ(config.model.num_key_value_heads, 6);
  EXPECT_EQ(config.model.head_dim, 16);
  EXPECT_EQ(config.model.intermediate_size, 256);
}

TEST(RunConfig, TakesBudgetsInScientificNotation) {
  const auto config = parse("[train]\nmax_tokens = 1e6\nbatch_size = 10\nsequence_length = 100");
  EXPECT_EQ(config.train.total_steps(), 1000);
}

TEST(RunConfig, WrittenAndReadAgainIsTheSame) {
  auto config = parse(
      "[data]\ncorpus = [\"a b.h5\", \"c\\\"d\\n.h5\"]\nweights = [0.1, 3]\n[train]\nlearning_rate "
      "= 0.1\nadam_eps = 1e-9");
  EXPECT_EQ(config.data.corpus[1], "c\"d\n.h5");
  EXPECT_EQ(parse(to_toml(config)), config);
}

TEST(RunConfig, LaterFilesAndAssignmentsWin) {
  const TemporaryDirectory directory;
  write_file(directory / "base.toml", "[train]\nseed = 1\nmax_steps = 100\nbatch_size = 2");
  write_file(directory / "mine.toml", "include = \"base.toml\"\n[train]\nseed = 2");
  write_file(directory / "third.toml", "[train]\nbatch_size = 8");
  const auto config =
      load_run_config({directory / "mine.toml", directory / "third.toml"},
                      {"train.lr_scheduler=linear", "data.corpus=x.h5", "train.learning_rate=0.5"});
  EXPECT_EQ(config.train.seed, 2);
  EXPECT_EQ(config.train.max_steps, 100);
  EXPECT_EQ(config.train.batch_size, 8);
  EXPECT_EQ(config.train.lr_scheduler, "linear");
  EXPECT_EQ(config.data.corpus, std::vector<std::string>{"x.h5"});
  EXPECT_EQ(config.train.learning_rate, 0.5);
}

TEST(RunConfig, NamesTheFlagOfABadAssignment) {
  expect_error([] { load_run_config({}, {"train.seed"}); }, ExitCode::kUsage, "not an assignment");
  expect_error([] { load_run_config({}, {"train.sed=1"}); }, ExitCode::kConfig,
               "--set: unknown key \"train.sed\"; did you mean \"train.seed\"?");
  expect_error([] { load_run_config({}, {"data.corpus=[\"a\""}); }, ExitCode::kUsage,
               "cannot read the value");
}

TEST(RunConfig, RefusesAnIncludeOfItselfAndAMissingFile) {
  const TemporaryDirectory directory;
  write_file(directory / "loop.toml", "include = \"loop.toml\"");
  expect_error([&] { load_run_config({directory / "loop.toml"}); }, ExitCode::kConfig,
               "includes are nested");
  expect_error([&] { load_run_config({directory / "none.toml"}); }, ExitCode::kMissingInput,
               "none.toml");
}

TEST(RunConfig, DifferencesListOnlyWhatShapesTheResult) {
  auto a = parse(""), b = a;
  b.train.log_every = 7;
  b.train.seed = 3;
  const auto found = differences(a, b);
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].key, "train.seed");
  EXPECT_EQ(found[0].after, "3");
  EXPECT_EQ(differences(a, b, /*all=*/true).size(), 2U);
}

TEST(Recipes, AllAreValid) {
  int count = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(std::filesystem::path(KVSMITH_SOURCE_DIR) / "configs")) {
    if (entry.path().extension() != ".toml") continue;
    EXPECT_NO_THROW(load_run_config({entry.path()})) << entry.path();
    ++count;
  }
  EXPECT_GE(count, 6);
}

TEST(Recipes, EverySizeGoesWithEveryArchitecture) {
  const auto configs = std::filesystem::path(KVSMITH_SOURCE_DIR) / "configs";
  int count = 0;
  for (const auto& size : std::filesystem::directory_iterator(configs / "sizes")) {
    for (const auto& kind : std::filesystem::directory_iterator(configs / "architectures")) {
      EXPECT_NO_THROW(load_run_config({size.path(), kind.path()})) << size << " with " << kind;
      ++count;
    }
  }
  EXPECT_GE(count, 3 * 26);
}

TEST(ConfigurationReference, IsWhatTheDocsSay) {
  const auto docs = read_file(std::filesystem::path(KVSMITH_SOURCE_DIR) / "docs/configuration.md");
  EXPECT_NE(docs.find(configuration_reference()), std::string::npos)
      << "docs/configuration.md is out of date; its generated part should read:\n"
      << configuration_reference();
}

TEST(Advice, NamesWhatIsProbablyNotMeant) {
  EXPECT_TRUE(advice(RunConfig{parse_run_config("", "x")}).empty());
  const auto wide = advice(parse_run_config(
      "[model]\nlayer_types = \"sliding\"\nsliding_window = 300\n[train]\nsequence_length = 256",
      "x"));
  ASSERT_EQ(wide.size(), 1u);
  EXPECT_NE(wide[0].find("300 tokens is not shorter than sequence_length 256"), std::string::npos);
  EXPECT_EQ(
      advice(parse_run_config("[model]\npattern = \"lckv\"\nbackward_passes = 1", "x")).size(), 1u);
}

TEST(RunConfig, MorePassesThanTokensAreRefused) {
  expect_error(
      [] { parse_run_config("[model]\npattern = \"lckv\"\n[train]\nsequence_length = 8", "x"); },
      ExitCode::kConfig, "forward_passes + backward_passes = 9 is more than a sequence of 8");
}

TEST(RunConfig, CheckpointingIsRefusedWhereItCannotRepeatAStep) {
  struct Case {
    std::string model, train, fragment;
  };
  for (const auto& c :
       {Case{"pattern = \"lckv\"", "kv_loss = 1", "auxiliary losses"},
        Case{"layer_types = \"autoencoded\"", "reconstruction_loss = 1", "auxiliary losses"},
        Case{"dropout = 0.1", "", "would drop other elements"}}) {
    const std::string text = "[model]\n" + c.model + "\n[train]\ngradient_checkpointing = ";
    EXPECT_NO_THROW(parse_run_config(text + "false\n" + c.train, "x"));
    expect_error([&] { parse_run_config(text + "true\n" + c.train, "x"); }, ExitCode::kConfig,
                 c.fragment);
  }
}

TEST(ArchitectureName, SaysHowHeadsAreShared) {
  for (const auto& [kv, name] :
       std::vector<std::pair<int, std::string>>{{8, "MHA 8"}, {2, "GQA 8/2"}, {1, "MQA 8"}}) {
    ModelConfig config;
    config.num_attention_heads = 8;
    config.num_key_value_heads = kv;
    EXPECT_TRUE(fill_in(config).empty());
    EXPECT_EQ(architecture_name(config), name);
  }
}

}  // namespace
}  // namespace kvsmith
