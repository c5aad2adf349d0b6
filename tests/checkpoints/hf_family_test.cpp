#include "checkpoints/hf_family.h"

#include <torch/types.h>

#include "checkpoints/export.h"
#include "checkpoints/hf_config.h"
#include "core/files.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

using Json = nlohmann::ordered_json;

ModelConfig odd_model(const std::function<void(ModelConfig&)>& change = {}) {
  return tiny_model(2, [&](ModelConfig& config) {
    config.hidden_size = 34;
    config.head_dim = 8;
    if (change) change(config);
  });
}

TEST(HfFamily, WidthsThatHeadsDoNotDivideAreMistralsWithoutAWindow) {
  LoadedModel source;
  source.model = Decoder(odd_model());
  initialize(*source.model, 2);
  source.model->eval();
  const TemporaryDirectory directory;
  EXPECT_EQ(export_hf(source, directory / "hf", false).max_logit_difference, 0);
  const Json json = Json::parse(read_file(directory / "hf" / "config.json"));
  EXPECT_EQ(json["architectures"][0], "MistralForCausalLM");
  EXPECT_TRUE(json.contains("sliding_window"));  // left out, it would be the class's own, 4096
  EXPECT_TRUE(json.value("sliding_window", Json()).is_null());
  EXPECT_EQ(load_model(directory / "hf").model->config(), source.model->config());
}

TEST(HfFamily, MistralsHaveNoBiases) {
  expect_error([] { hf_family_of(odd_model([](ModelConfig& c) { c.attention_bias = true; })); },
               ExitCode::kConfig, "hidden_size 34 is no multiple of 4 heads, and attention_bias");
}

}  // namespace
}  // namespace kvsmith
