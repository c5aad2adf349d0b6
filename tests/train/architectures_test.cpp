// Every kind of layer and every pattern trains: exactly resumable, in fp32 and bf16, with packed
// documents and gradient accumulation.
#include <cmath>
#include <csignal>

#include <gtest/gtest.h>

#include "checkpoints/load.h"
#include "core/files.h"
#include "tests/support/layer_cases.h"
#include "tests/support/temporary_directory.h"
#include "train/run.h"

namespace kvsmith {
namespace {

class ArchitectureTraining : public ::testing::TestWithParam<LayerCase> {
 protected:
  RunResult train(const RunConfig& config, const std::string& name, int64_t stop_after = 0) const {
    RunHooks hooks;
    hooks.on_step = [&](const StepReport& report, int64_t, double, double) {
      if (report.step == stop_after) std::raise(SIGTERM);
    };
    return run_training(config, {.output = directory_ / name}, hooks);
  }

  TemporaryDirectory directory_;
  std::filesystem::path corpus_ = tiny_corpus(directory_ / "corpus.h5");
};

TEST_P(ArchitectureTraining, LearnsAndContinuesExactly) {
  for (const char* precision : {"fp32", "bf16"}) {
    RunConfig config = tiny_run(corpus_);
    config.model = GetParam().config;
    config.train.precision = precision;
    config.train.micro_batch_size = 2;
    config.data.document_mask = true;
    config.train.max_steps = 6;
    config.train.sequence_length = 31;  // no multiple of any chunk
    const std::string whole = std::string("whole-") + precision, parts = "parts-" + whole;
    const RunResult result = train(config, whole);
    EXPECT_TRUE(std::isfinite(result.last.grad_norm));
    train(config, parts, 2);
    const RunResult resumed = train(config, parts);
    EXPECT_EQ(resumed.last.loss, result.last.loss) << precision;
    EXPECT_EQ(resumed.last.grad_norm, result.last.grad_norm) << precision;
    const auto weights = [&](const std::string& run) {
      return read_file(directory_ / run / "latest" / "model.safetensors");
    };
    EXPECT_EQ(weights(whole), weights(parts)) << precision;
    EXPECT_EQ(load_model(directory_ / whole).model->config(), config.model);
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds,
                         ArchitectureTraining,
                         ::testing::ValuesIn(layer_cases()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace kvsmith
