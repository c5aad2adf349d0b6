#include "train/adapter.h"

#include "checkpoints/adapter_source.h"
#include "core/text.h"
#include "models/low_rank.h"
#include "train/coded_weights.h"

namespace kvsmith {

std::string adapt(DecoderImpl& model,
                  const RunConfig& config,
                  const std::function<void(const std::string&)>& note) {
  const auto& lora = config.lora;
  const ModelSource source = open_model(config.train.init_from);
  expect_same_model(config.model, source.config, "train.init_from: " + config.train.init_from);
  auto base = fingerprint(source);
  const auto maps = add_adapters(model, lora, static_cast<uint64_t>(config.train.seed));
  note(cat("adapter of rank ", lora.rank, " on ", maps.size(), " linear maps"));
  if (lora.base != "as_is") {
    const auto bytes = static_cast<double>(hold_coded(model, lora.base));
    note(cat("their weights are held in ", lora.base, ", ", human_bytes(bytes)));
  }
  return base;
}

NamedTensors saved_parameters(const DecoderImpl& model, const LoraConfig& config) {
  return config.rank > 0 ? adapter_parameters(model) : named_parameters(model);
}

}  // namespace kvsmith
