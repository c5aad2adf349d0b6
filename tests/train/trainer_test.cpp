#include "train/trainer.h"

#include <cmath>
#include <map>

#include <ATen/Parallel.h>

#include "tests/support/close.h"
#include "tests/support/tiny.h"
#include "train/schedule.h"

namespace kvsmith {
namespace {

/// A trainer with all it needs.
struct Bench {
  explicit Bench(RunConfig run)
      : config(std::move(run)),
        corpus(Corpus::open(config.data.corpus[0])),
        split(corpus.split("train")),
        stream({{split, 1.0}},
               {.length = config.train.sequence_length, .document_mask = config.data.document_mask},
               config.train.micro_batch()),
        model(config.model) {
    at::set_num_threads(1);
    initialize(*model, 3);
    trainer = std::make_unique<Trainer>(config, model, stream);
  }

  double validation_loss() const {
    const BatchOptions options{.length = config.train.sequence_length, .shuffle = false};
    return trainer->validate(WindowSource({{corpus.split("valid")}}, options), 0).loss;
  }

  RunConfig config;
  Corpus corpus;
  std::shared_ptr<const CorpusSplit> split;
  BatchStream stream;
  Decoder model;
  std::unique_ptr<Trainer> trainer;
};

class TrainerTest : public ::testing::Test {
 protected:
  RunConfig config() { return tiny_run(corpus_); }

  TemporaryDirectory directory_;
  std::filesystem::path corpus_ = tiny_corpus(directory_ / "corpus.h5");
};

TEST_F(TrainerTest, LearnsWhatThereIsToLearn) {
  auto run = config();
  run.train.max_steps = 150;
  Bench bench(run);
  const double before = bench.validation_loss();
  for (int i = 0; i < 150; ++i) bench.trainer->step();
  const double after = bench.validation_loss();
  EXPECT_NEAR(before, std::log(67), 0.5);
  EXPECT_LT(after, 2.0);  // nine of ten tokens follow from the one before
}

TEST_F(TrainerTest, MicroBatchesGiveTheGradientOfTheWholeBatch) {
  for (const bool mask : {false, true}) {  // with a mask micro-batches have different target counts
    auto run = config();
    run.data.document_mask = mask;
    run.train.max_grad_norm = 0;
    Bench whole(run);
    run.train.micro_batch_size = 1;
    Bench parts(run);
    const auto a = whole.trainer->step(), b = parts.trainer->step();
    EXPECT_NEAR(a.loss, b.loss, 1e-6);
    EXPECT_NEAR(a.grad_norm, b.grad_norm, 1e-5);
    for (const auto& item : whole.model->named_parameters()) {
      EXPECT_TRUE(
          close(parts.model->named_parameters()[item.key()].grad(), item.value().grad(), 1e-6))
          << item.key();
    }
  }
}

TEST_F(TrainerTest, ClipsTheGlobalNorm) {
  auto run = config();
  run.train.max_grad_norm = 0.01;
  Bench bench(run);
  EXPECT_GT(bench.trainer->step().grad_norm, 0.01);
  double squares = 0;
  for (const auto& parameter : bench.model->parameters())
    squares += parameter.grad().pow(2).sum().item<double>();
  EXPECT_NEAR(std::sqrt(squares), 0.01, 1e-5);
}

TEST_F(TrainerTest, LeavesAloneWhatTheLossDoesNotDependOn) {
  auto run = config();
  run.model = tiny_model(2, [](ModelConfig& c) {
    c.kv_source_layers = {1, 0};  // layer 0 reads what layer 1 wrote in the pass before
    c.forward_passes = 2;
    c.backward_passes = 1;  // and no gradient goes back that far
  });
  run.train.weight_decay = 0;
  Bench bench(run);
  const auto before = bench.model->named_parameters();
  std::map<std::string, at::Tensor> copies;
  for (const auto& item : before) copies[item.key()] = item.value().detach().clone();
  EXPECT_FALSE(bench.trainer->step().skipped);
  int unchanged = 0;
  for (const auto& item : before) unchanged += copies[item.key()].equal(item.value());
  EXPECT_GT(unchanged, 0);
  EXPECT_LT(unchanged, 6);
}

TEST_F(TrainerTest, SkipsAStepThatIsNotFiniteAndLeavesTheWeightsAlone) {
  Bench bench(config());
  bench.trainer->step();
  const auto poisoned = bench.model->named_parameters()["model.layers.0.mlp.up_proj.weight"];
  const auto other = bench.model->named_parameters()["model.norm.weight"];
  const auto before = other.detach().clone();
  {
    const torch::NoGradGuard no_grad;
    poisoned.view(-1)[0] = NAN;
  }
  const auto report = bench.trainer->step();
  EXPECT_TRUE(report.skipped);
  EXPECT_EQ(bench.trainer->nonfinite_in_a_row(), 1);
  EXPECT_TRUE(torch::equal(other, before));
  {
    const torch::NoGradGuard no_grad;
    poisoned.view(-1)[0] = 0;
  }
  EXPECT_FALSE(bench.trainer->step().skipped);
  EXPECT_EQ(bench.trainer->nonfinite_in_a_row(), 0);
}

TEST_F(TrainerTest, DropoutIsKeyedByStepNotByHistory) {
  auto run = config();
  run.model.dropout = 0.2;
  Bench a(run), b(run);
  a.trainer->step();
  torch::rand({17});  // a draw in between must not matter
  b.trainer->step();
  EXPECT_EQ(a.trainer->step().loss, b.trainer->step().loss);
  run.model.dropout = 0;
  Bench without(run);
  EXPECT_NE(without.trainer->step().loss, Bench(a.config).trainer->step().loss);
}

TEST_F(TrainerTest, AdamMatchesThePaper) {
  TrainConfig config;
  config.weight_decay = 0.1;
  auto w = torch::tensor({{1.0F, -2.0F}}).requires_grad_(true),
       b = torch::tensor({0.5F}).requires_grad_(true);
  AdamW optimizer({{"w", w}, {"b", b}}, config);
  double m = 0, v = 0, want = 1.0, bias = 0.5;
  for (int t = 1; t <= 3; ++t) {
    w.mutable_grad() = torch::full({1, 2}, 0.3 * t);
    b.mutable_grad() = torch::full({1}, 0.3 * t);
    optimizer.step(0.01);
    m = 0.9 * m + 0.1 * 0.3 * t;
    v = 0.95 * v + 0.05 * 0.09 * t * t;
    const double update =
        0.01 * (m / (1 - std::pow(0.9, t))) / (std::sqrt(v / (1 - std::pow(0.95, t))) + 1e-8);
    want = want * (1 - 0.01 * 0.1) - update;  // matrices decay
    bias -= update;                           // vectors do not
  }
  EXPECT_NEAR(w[0][0].item<double>(), want, 1e-6);
  EXPECT_NEAR(b[0].item<double>(), bias, 1e-6);
}

struct Point {
  const char* scheduler;
  int64_t step;
  double rate;
};

TEST(LearningRate, FollowsTheSchedule) {
  TrainConfig config;
  config.max_steps = 101;
  config.warmup_steps = 10;
  config.learning_rate = 1.0;
  config.min_learning_rate = 0.1;
  config.decay_steps = 20;
  for (const Point& p : std::vector<Point>{{"cosine", 0, 0.1},
                                           {"cosine", 9, 1.0},
                                           {"cosine", 10, 1.0},
                                           {"cosine", 55, 0.55},
                                           {"cosine", 100, 0.1},
                                           {"linear", 55, 0.55},
                                           {"linear", 100, 0.1},
                                           {"constant", 100, 1.0},
                                           {"constant", 4, 0.5},
                                           {"wsd", 79, 1.0},
                                           {"wsd", 80, 1.0},
                                           {"wsd", 90, 0.55},
                                           {"wsd", 100, 0.1}}) {
    config.lr_scheduler = p.scheduler;
    EXPECT_NEAR(learning_rate(config, p.step), p.rate, 1e-9) << p.scheduler << " " << p.step;
  }
}

}  // namespace
}  // namespace kvsmith
