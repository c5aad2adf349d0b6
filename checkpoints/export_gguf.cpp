#include "checkpoints/export_gguf.h"

#include <map>
#include <utility>

#include <torch/types.h>

#include "checkpoints/gguf_config.h"
#include "checkpoints/gguf_tokenizer.h"
#include "checkpoints/hf_family.h"
#include "checkpoints/output_directory.h"
#include "checkpoints/rotary_rows.h"
#include "core/error.h"
#include "core/files.h"
#include "core/gguf.h"
#include "core/text.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

constexpr std::pair<const char*, GgmlType> kTypes[] = {{"f32", GgmlType::kF32},
                                                       {"f16", GgmlType::kF16},
                                                       {"bf16", GgmlType::kBF16},
                                                       {"q8_0", GgmlType::kQ80},
                                                       {"q4_0", GgmlType::kQ40}};

/// `enum llama_ftype` of llama.h in github.com/ggml-org/llama.cpp: the type of most tensors.
uint32_t file_type_of(GgmlType type) {
  constexpr uint32_t kMostlyQ80 = 7, kMostlyBf16 = 32;
  if (type == GgmlType::kQ80) return kMostlyQ80;
  if (type == GgmlType::kBF16) return kMostlyBf16;
  return static_cast<uint32_t>(type);  // the others have the numbers of the types
}

/// The type in which a tensor is stored, of a file that is mostly of type `wanted`.
GgmlType type_of(const std::string& name,
                 const at::Tensor& tensor,
                 GgmlType wanted,
                 const ModelConfig& config) {
  if (tensor.dim() < 2) return GgmlType::kF32;
  const bool makes_logits =
      name == (config.tie_word_embeddings ? "model.embed_tokens.weight" : kOutputMatrix);
  const GgmlType type = wanted == GgmlType::kQ40 && makes_logits ? GgmlType::kQ80 : wanted;
  return tensor.size(-1) % ggml_block(type).elements == 0 ? type : GgmlType::kF16;
}

/// The bytes of a tensor as the file holds them.
at::Tensor encoded(const at::Tensor& tensor, GgmlType type) {
  const auto values = tensor.detach().to(at::kCPU, at::kFloat).contiguous();
  const GgmlBlock& block = ggml_block(type);
  auto bytes = torch::empty({values.numel() / block.elements * block.bytes}, torch::kByte);
  encode_blocks(type, values.data_ptr<float>(), static_cast<uint64_t>(values.numel()),
                bytes.data_ptr());
  return bytes;
}

/// The values that a tensor has after it was stored.
at::Tensor rounded(const std::string& name, const at::Tensor& tensor, GgmlType type) {
  const auto refuse = [&](const char* what) {
    throw Error(ExitCode::kNumerical,
                {cat("tensor ", name, what), "GGUF export", "choose f32 or bf16"});
  };
  if (!torch::isfinite(tensor).all().item<bool>()) refuse(" holds values that are not finite");
  auto values = torch::empty(tensor.sizes(), torch::kFloat);
  decode_blocks(type, encoded(tensor, type).data_ptr(), static_cast<uint64_t>(values.numel()),
                values.data_ptr<float>());
  if (!torch::isfinite(values).all().item<bool>())
    refuse(cat(" holds values too large for ", ggml_block(type).name).c_str());
  return values;
}

void write(const LoadedModel& source, const fs::path& path, GgmlType type) {
  const ModelConfig& config = source.model->config();
  GgufMetadata metadata = to_gguf_config(config, source.name);
  metadata.add_uint32("general.file_type", file_type_of(type));
  if (ggml_block(type).elements > 1) {
    constexpr uint32_t kQuantizationVersion = 2;  // GGML_QNT_VERSION: the layouts of today
    metadata.add_uint32("general.quantization_version", kQuantizationVersion);
  }
  add_tokenizer(metadata, source.tokenizer, config.vocab_size, source.bos_id, source.eos_id);

  const bool interleaved = has_interleaved_heads(gguf_architecture_of(config));
  const auto weights = named_parameters(*source.model);
  std::vector<GgufTensor> infos;
  for (const auto& [name, tensor] : weights) {
    infos.push_back({.name = gguf_name_of(name),
                     .type = type_of(name, tensor, type, config),
                     .shape = tensor.sizes().vec()});
  }
  GgufWriter writer(path, metadata, std::move(infos));
  for (size_t i = 0; i < weights.size(); ++i) {
    const auto& [name, tensor] = weights[i];
    const GgufTensor& info = writer.tensors()[i];
    const auto bytes = encoded(
        interleaved ? to_interleaved_heads(name, tensor, config.head_dim) : tensor, info.type);
    writer.write(info.name, bytes.data_ptr(), static_cast<uint64_t>(bytes.nbytes()));
  }
  writer.commit();
}

/// The model that the file should hold: the same parameters, rounded.
Decoder rounded_model(const DecoderImpl& model, GgmlType type) {
  const torch::NoGradGuard no_grad;
  Decoder out(rounded_for_gguf(model.config()));
  std::map<std::string, at::Tensor> values;
  for (const auto& [name, tensor] : named_parameters(model))
    values[name] = rounded(name, tensor, type_of(name, tensor, type, model.config()));
  for (auto& [name, tensor] : named_parameters(*out)) at::Tensor(tensor).copy_(values.at(name));
  out->eval();
  return out;
}

}  // namespace

std::vector<std::string> gguf_export_types() {
  std::vector<std::string> names;
  for (const auto& [name, type] : kTypes) names.emplace_back(name);
  return names;
}

GgmlType gguf_export_type(const std::string& name) {
  for (const auto& [known, type] : kTypes)
    if (name == known) return type;
  throw Error(ExitCode::kUsage, {cat("no GGUF type ", in_quotes(name)), "export",
                                 suggestion(name, gguf_export_types())});
}

ExportReport export_gguf(const LoadedModel& source,
                         const fs::path& output,
                         GgmlType type,
                         bool force) {
  gguf_architecture_of(source.model->config());
  expect_output_file(output, force);
  const Decoder expected = rounded_model(*source.model, type);
  // an atomic directory holds the file until it has been read back
  const AtomicDirectory trial(output.parent_path() / (output.filename().string() + ".trial"));
  const fs::path file = trial.path() / output.filename();
  write(source, file, type);
  const LoadedModel back = load_model(file);
  if (const double difference = logit_difference(expected, back.model); difference != 0) {
    throw Error(ExitCode::kInternal,
                {cat("what was read back gives logits that differ by ", difference, " from those ",
                     "of the weights that were written"),
                 file.string(), "report this"});
  }
  const ExportReport report{fs::file_size(file), logit_difference(source.model, back.model)};
  publish_file(file, output);
  return report;
}

}  // namespace kvsmith
