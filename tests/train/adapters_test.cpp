// Adapters that runs have learned, beside the model that they were learned for.
#include "checkpoints/adapters.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include "tests/support/close.h"
#include "tests/support/expect_error.h"
#include "tests/train/training_runs.h"

namespace kvsmith {
namespace {

class Adapters : public TrainingRuns {
 protected:
  Adapters() {
    train(tiny_run(corpus_), "base");
    learn("one", {"*.q_proj", "*.v_proj"}, 4);
    learn("two", {"*_proj"}, 2);
  }
  void learn(const std::string& name, std::vector<std::string> targets, int64_t rank) {
    RunConfig run = tiny_run(corpus_);
    run.train.init_from = at("base");
    run.train.learning_rate = 3e-2;
    run.lora.rank = rank;
    run.lora.targets = std::move(targets);
    train(run, name);
  }
  std::string at(const std::string& name) const { return (directory_ / name).string(); }
  static at::Tensor logits(LoadedModel& model) {
    const torch::NoGradGuard no_grad;
    return model.model->forward(torch::arange(3, 33, torch::kLong).unsqueeze(0));
  }
};

TEST_F(Adapters, EachIsTheModelThatItsRunMadeAndSharesTheWeights) {
  auto base = load_model(at("base"));
  const auto before = logits(base);
  auto adapted = load_adapters(base, {at("one"), "second=" + at("two") + "/latest"});
  ASSERT_EQ(adapted.size(), 2);
  EXPECT_EQ(adapted[0].name, "one");
  EXPECT_EQ(adapted[1].name, "second");
  for (size_t i = 0; i < 2; ++i) {
    auto merged = load_model(at(i == 0 ? "one" : "two"));
    EXPECT_TRUE(close(logits(adapted[i]), logits(merged), 1e-5));
    EXPECT_FALSE(close(logits(adapted[i]), before, 1e-2));
    EXPECT_EQ(adapted[i].step, merged.step);
    EXPECT_EQ(adapted[i].eos_id, merged.eos_id);
    const auto own = adapted[i].model->named_parameters();
    for (const auto& [name, value] : named_parameters(*base.model))
      EXPECT_EQ(own[name].data_ptr(), value.data_ptr()) << name;
  }
  EXPECT_TRUE(logits(base).equal(before));
}

TEST_F(Adapters, TakeTheTypeOfTheModel) {
  auto base = load_model(at("base"), {.type = at::kBFloat16});
  auto adapted = load_adapters(base, {at("one")});
  auto merged = load_model(at("one"), {.type = at::kBFloat16});
  for (const auto& parameter : adapted[0].model->parameters()) {
    EXPECT_EQ(parameter.scalar_type(), at::kBFloat16);
    EXPECT_FALSE(parameter.requires_grad());
  }
  EXPECT_TRUE(close(logits(adapted[0]), logits(merged), 5e-2));
}

TEST_F(Adapters, RefuseWhatCannotBe) {
  auto base = load_model(at("base"));
  const auto load = [&](const std::vector<std::string>& words) {
    return [&base, words] { load_adapters(base, words); };
  };
  expect_error(load({at("one"), "one=" + at("two")}), ExitCode::kUsage, "\"one\" is taken");
  expect_error(load({"base=" + at("two")}), ExitCode::kUsage, "\"base\" is taken");
  expect_error(load({"x=" + at("base")}), ExitCode::kUsage, "no adapter in it");
  expect_error(load({"x="}), ExitCode::kUsage, "write NAME=PATH");
  expect_error(load({at("nowhere")}), ExitCode::kMissingInput, "no such adapter");
  auto other_run = tiny_run(corpus_);
  other_run.train.seed = 9;
  train(other_run, "other");
  base = load_model(at("other"));
  expect_error(load({at("one")}), ExitCode::kConfig, "an adapter of other weights");
}

}  // namespace
}  // namespace kvsmith
