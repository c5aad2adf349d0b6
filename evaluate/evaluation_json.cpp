#include <cmath>

#include "evaluate/perplexity.h"

namespace kvsmith {

nlohmann::ordered_json to_json(const Evaluation& e,
                               const LoadedModel& loaded,
                               const std::string& corpus) {
  using Json = nlohmann::ordered_json;
  const DecoderImpl& model = *loaded.model;
  const auto tokens = static_cast<double>(e.tokens);
  Json json = {{"name", loaded.name},
               {"checkpoint", loaded.path.string()},
               {"corpus", corpus},
               {"split", e.options.split},
               {"architecture", architecture_name(model.config())},
               {"parameters", model.parameter_count()},
               {"step", loaded.step},
               {"tokens_seen", loaded.tokens_seen},
               {"protocol", to_string(e.options.protocol)},
               {"context", e.options.context},
               {"stride", e.options.stride},
               {"documents", e.documents},
               {"tokens", e.tokens},
               {"nll", e.nll},
               {"nll_per_token", e.nll_per_token()},
               {"perplexity", std::exp(e.nll_per_token())},
               {"bits_per_byte", e.bits_per_byte ? Json(*e.bits_per_byte) : Json()}};
  if (e.unigram_nll) json["unigram_perplexity"] = std::exp(*e.unigram_nll / tokens);
  json["cache"] = {{"tokens", e.cache.tokens},
                   {"bytes_measured", e.cache.bytes_used},
                   {"bytes_formula", e.cache.bytes_formula},
                   {"bytes_reserved", e.cache.bytes_reserved},
                   {"bytes_peak", e.cache_bytes_peak},
                   {"bytes_per_token",
                    static_cast<double>(e.cache.bytes_used) / static_cast<double>(e.cache.tokens)},
                   {"dtype", model.compute_type() == at::kBFloat16 ? "bf16" : "fp32"}};
  if (e.cache_lengths) {
    json["cache"]["bytes_at_8k"] = e.cache_lengths->at_8k.bytes_used;
    for (const auto& at : e.cache_lengths->lengths) {
      json["cache"]["lengths"].push_back({{"tokens", at.tokens},
                                          {"bytes_measured", at.bytes_used},
                                          {"bytes_formula", at.bytes_formula}});
    }
  }
  for (const auto& point : e.recall) {
    json["recall"].push_back({{"distance", point.distance},
                              {"nll_first", point.nll_first},
                              {"nll_again", point.nll_again},
                              {"gain", point.gain()},
                              {"accuracy", point.accuracy}});
  }
  if (!e.probes.empty()) json["probes"] = probe_json(e.probes);
  if (model.graph().is_cyclic()) {
    json["forward_passes"] = model.config().forward_passes;
    json["backward_passes"] = model.config().backward_passes;
  }
  for (const auto& passes : e.passes) {
    json["passes"].push_back(
        {{"forward_passes", passes.forward_passes}, {"perplexity", std::exp(passes.nll / tokens)}});
  }
  if (e.method) json.update(e.method->json());
  if (e.options.protocol == Protocol::kReplay) json["replay_vs_decode"] = e.replay_vs_decode;
  if (e.options.protocol == Protocol::kPrefillContinue) json["prefill"] = e.options.prefill;
  if (e.options.protocol == Protocol::kChunked) json["chunk"] = e.options.chunk;
  json["decode_vs_parallel_max_abs_diff"] = e.decode_vs_parallel;
  json["tokens_per_second"] = tokens / e.seconds;
  json["version"] = KVSMITH_VERSION;
  return json;
}

}  // namespace kvsmith
