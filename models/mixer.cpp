#include "models/mixer.h"

#include <torch/types.h>

#include "core/error.h"
#include "core/text.h"
#include "models/mixers/attention.h"

namespace kvsmith {

at::Tensor RowMixer::step(const at::Tensor& x, const Positions& positions, Memory& memory) {
  return attend(x, positions,
                dynamic_cast<RowMemory&>(memory).write(positions, project(x, positions)));
}

std::unique_ptr<Memory> RowMixer::make_cache(const CacheOptions& options) const {
  return std::make_unique<CachedRows>(options);
}

std::unique_ptr<Memory> RowMixer::make_transient() const {
  return std::make_unique<TransientRows>();
}

const std::vector<MixerKind>& mixer_kinds() {
  static const std::vector<MixerKind> kinds = {
      {"attention", make_attention, attention_cache_bytes},
  };
  return kinds;
}

const MixerKind& mixer_kind(const std::string& name) {
  std::vector<std::string> names;
  for (const auto& kind : mixer_kinds()) {
    if (kind.name == name) return kind;
    names.push_back(kind.name);
  }
  throw Error(ExitCode::kConfig,
              {"no mixer is called \"" + name + "\"", "model.mixer", suggestion(name, names)});
}

int64_t kv_cache_bytes(const ModelConfig& config, int64_t tokens, int64_t element_bytes) {
  int64_t sum = 0;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    sum += mixer_kind(config.mixer).cache_bytes(config, layer, tokens, element_bytes);
  }
  return sum;
}

}  // namespace kvsmith
