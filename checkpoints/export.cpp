#include "checkpoints/export.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include <torch/types.h>

#include "checkpoints/hf_config.h"
#include "checkpoints/hf_gemma.h"
#include "checkpoints/hf_latents.h"
#include "checkpoints/mistral_large4.h"
#include "checkpoints/output_directory.h"
#include "checkpoints/own_checkpoint.h"
#include "checkpoints/tensor_file.h"
#include "configs/run_config.h"
#include "core/error.h"
#include "core/files.h"
#include "core/text.h"
#include "data/hf_tokenizer.h"
#include "models/mixers/latent.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

NamedTensors weights_of(const DecoderImpl& model) {
  NamedTensors out = named_parameters(model);
  std::ranges::sort(out, {}, &std::pair<std::string, at::Tensor>::first);
  return out;
}

/// What Hugging Face's classes have and our model does not need: see hf_config.h.
NamedTensors constants_of(const ModelConfig& config, const std::string& model_type) {
  constexpr double kNoSink = -1e30;  // adds exactly nothing to a softmax
  if (model_type == mistral_large4::kModelType) return mistral_large4::neutral_tensors(config);
  NamedTensors out;
  if (is_gemma(model_type)) out = gemma_constants(config);
  for (int64_t i = 0;
       model_type == "granite_swa" && !config.attention_sink_logits && i < config.num_hidden_layers;
       ++i) {
    out.emplace_back(cat("model.layers.", i, ".self_attn.sinks"),
                     torch::full({config.num_attention_heads}, kNoSink));
  }
  for (int64_t i = 0; config.attention_bias && i < config.num_hidden_layers; ++i) {
    out.emplace_back(cat("model.layers.", i, ".self_attn.o_proj.bias"),
                     torch::zeros({config.hidden_size}));
  }
  return out;
}

/// Consecutive tensors in groups of at most `limit` bytes.
std::vector<NamedTensors> shards_of(const NamedTensors& weights, uint64_t limit) {
  std::vector<NamedTensors> shards(1);
  uint64_t size = 0;
  for (const auto& item : weights) {
    const auto bytes = static_cast<uint64_t>(item.second.nbytes());
    if (size > 0 && size + bytes > limit) {
      shards.emplace_back();
      size = 0;
    }
    shards.back().push_back(item);
    size += bytes;
  }
  return shards;
}

void write_weights(const fs::path& folder, const NamedTensors& weights, uint64_t limit) {
  const auto shards = shards_of(weights, limit);
  if (shards.size() == 1) {
    save_tensors(folder / "model.safetensors", weights, {{"format", "pt"}});
    return;
  }
  Json index = {{"metadata", {{"total_size", 0}}}, {"weight_map", Json::object()}};
  uint64_t total = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    std::array<char, 64> name{};
    std::snprintf(name.data(), name.size(), "model-%05zu-of-%05zu.safetensors", i + 1,
                  shards.size());
    save_tensors(folder / name.data(), shards[i], {{"format", "pt"}});
    for (const auto& [tensor, value] : shards[i]) {
      index["weight_map"][tensor] = name.data();
      total += static_cast<uint64_t>(value.nbytes());
    }
  }
  index["metadata"]["total_size"] = total;
  write_file(folder / "model.safetensors.index.json", index.dump(2) + "\n");
}

uint64_t bytes_below(const fs::path& path) {
  if (fs::is_regular_file(path)) return fs::file_size(path);
  uint64_t sum = 0;
  for (const auto& entry : fs::directory_iterator(path)) sum += entry.file_size();
  return sum;
}

/// What was written must be the model: same bytes in, same kernels, so the logits are equal, unless
/// weights had to be rounded.
ExportReport verified(const LoadedModel& source, const fs::path& written, double rounding = 0) {
  const LoadedModel back = load_model(written, {.type = source.model->compute_type()});
  ExportReport report{bytes_below(written), logit_difference(source.model, back.model)};
  const KvGraph& graph = source.model->graph();
  for (int64_t layer = 0; layer < graph.size(); ++layer) {
    if (back.model->graph()[layer] == graph[layer]) continue;  // a window is longer than the probe
    throw Error(ExitCode::kInternal, {cat("layer ", layer, " was read back as another"),
                                      written.string(), "report this"});
  }
  if (source.model->device().is_cpu() && !(report.max_logit_difference <= rounding)) {
    throw Error(ExitCode::kInternal, {cat("what was read back gives logits that differ by ",
                                          report.max_logit_difference),
                                      written.string(), "report this"});
  }
  return report;
}

using MakeConfig = Json (*)(const ModelConfig&, const ExportIds&, const std::string& dtype);

/// A folder with config.json, weights and tokenizer.
ExportReport export_folder(const LoadedModel& source,
                           const fs::path& output,
                           bool force,
                           uint64_t shard_bytes,
                           MakeConfig make_config) {
  const auto& config = source.model->config();
  ExportIds ids{source.bos_id, source.end_ids};
  if (source.eos_id >= 0) ids.eos.insert(ids.eos.begin(), source.eos_id);
  const bool bf16 = source.model->compute_type() == at::kBFloat16;
  const Json json = make_config(config, ids, bf16 ? "bfloat16" : "float32");
  const Json text = mistral_large4::unwrapped(json);
  const auto type = text.at("model_type").get<std::string>();
  const LatentForm form = latent_form_of(text, config.latent.latent_norm);
  if (bf16 && !form.is_exact()) {
    throw Error(ExitCode::kConfig,
                {cat("class ", json.at("architectures")[0], " norms latents with rms_norm_eps ",
                     config.rms_norm_eps, ", not with ", kLatentEps,
                     ", and weights that make up for that are too coarse in bf16"),
                 "export", "use --dtype fp32 or --format kvsmith"});
  }
  expect_output_directory(output, force, "config.json", "export");
  AtomicDirectory directory(output);
  const fs::path& folder = directory.path();
  write_file(folder / "config.json", json.dump(2) + "\n");
  Json generation = {{"do_sample", true}, {"temperature", 1.0}};
  if (ids.bos >= 0) generation["bos_token_id"] = ids.bos;
  if (!ids.eos.empty()) generation["eos_token_id"] = ids.eos_json();
  write_file(folder / "generation_config.json", generation.dump(2) + "\n");
  NamedTensors weights = to_latent_form(weights_of(*source.model), form, config.latent);
  if (type == mistral_large4::kModelType)
    for (auto& [name, value] : weights) name = mistral_large4::name_of(name);
  bool is_rounded = !form.is_exact();
  for (auto& [name, value] : weights) {
    if (!is_offset_norm(json, name)) continue;
    value = value.to(torch::kFloat) - 1;  // more digits than the weight may need
    is_rounded = true;                    // where the weight is below 0.5
  }
  for (auto& [name, value] : constants_of(config, type)) {
    weights.emplace_back(name, value.to(source.model->compute_type()));
  }
  write_weights(folder, weights, shard_bytes);
  if (source.tokenizer) {
    for (const auto& [name, content] :
         hf_tokenizer_files(*source.tokenizer, config.max_position_embeddings)) {
      write_file(folder / name, content);
    }
  }
  constexpr double kRounding = 1e-4;
  const ExportReport report = verified(source, folder, is_rounded ? kRounding : 0);
  directory.commit();
  return report;
}

}  // namespace

double logit_difference(Decoder a, Decoder b) {
  const torch::NoGradGuard no_grad;
  constexpr int64_t kTokens = 64;
  const int64_t count = std::min(kTokens, a->config().max_position_embeddings);
  const auto tokens =
      (torch::arange(count, torch::kLong) * 7919 + 1).remainder(a->config().vocab_size);
  return (a->forward(tokens.unsqueeze(0).to(a->device())).cpu() -
          b->forward(tokens.unsqueeze(0)).cpu())
      .abs()
      .max()
      .item<double>();
}

ExportReport export_hf(const LoadedModel& source,
                       const fs::path& output,
                       bool force,
                       uint64_t shard_bytes) {
  return export_folder(source, output, force, shard_bytes, to_hf_config);
}

ExportReport export_lckv(const LoadedModel& source,
                         const fs::path& output,
                         bool force,
                         uint64_t shard_bytes) {
  return export_folder(source, output, force, shard_bytes, to_lckv_config);
}

ExportReport export_kvsmith(const LoadedModel& source, const fs::path& output, bool force) {
  expect_output_file(output, force);
  NamedTensors tensors = weights_of(*source.model);
  if (source.tokenizer) {
    const std::string& bytes = source.tokenizer->bytes();
    tensors.emplace_back("tokenizer.model",
                         torch::from_blob(const_cast<char*>(bytes.data()),
                                          {static_cast<int64_t>(bytes.size())}, torch::kByte)
                             .clone());
  }
  const std::string config = to_toml(run_config_of(source.model->config()));
  // an atomic directory holds the file until it has been read back
  const AtomicDirectory trial(output.parent_path() / (output.filename().string() + ".trial"));
  const fs::path file = trial.path() / output.filename();
  const auto ids = token_ids_json(source.bos_id, source.eos_id, source.end_ids);
  save_tensors(file, tensors,
               {{"format", "pt"}, {"kvsmith.config", config}, {kTokenIds, ids.dump()}});
  const ExportReport report = verified(source, file);
  publish_file(file, output);
  return report;
}

}  // namespace kvsmith
