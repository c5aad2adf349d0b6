#include "checkpoints/load.h"

#include <torch/types.h>

#include "checkpoints/gguf_source.h"
#include "checkpoints/own_checkpoint.h"
#include "core/error.h"
#include "core/json_node.h"
#include "core/text.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

Decoder make(const ModelSource& source, const LoadOptions& options) {
  const torch::NoGradGuard no_grad;
  Decoder model(source.config);
  model->to(options.type);
  model->set_compute_type(options.type);
  for (auto& parameter : model->parameters()) parameter.set_requires_grad(false);
  copy_into(named_parameters(*model), shapes_of(source), source.read, source.path.string());
  model->to(options.device);
  model->eval();
  return model;
}

}  // namespace

ModelSource open_model(const fs::path& path) {
  if (!fs::exists(path)) {
    throw Error(ExitCode::kMissingInput,
                {"no such checkpoint", path.string(),
                 "give a run directory, a checkpoint, or an exported folder or file"});
  }
  return read_json_of(path.string(), [&] {
    if (fs::is_regular_file(path)) return is_gguf(path) ? open_gguf(path) : open_single_file(path);
    const bool is_ours = fs::exists(path / "manifest.json");
    if (!is_ours && fs::exists(path / "config.json")) return open_hf_folder(path);
    if (const auto directory = own_checkpoint(path)) return open_checkpoint(*directory);
    throw Error(ExitCode::kMissingInput, {"no checkpoint in this directory", path.string(),
                                          "train one, or give a step-... directory"});
  });
}

LoadedModel described(const ModelSource& source) {
  LoadedModel out;
  if (!source.tokenizer.empty()) {
    const auto tokenizer = Tokenizer::from_bytes(source.tokenizer, source.path.string());
    if (tokenizer.vocab_size() > source.config.vocab_size) {
      throw Error(ExitCode::kConfig,
                  {cat("the tokenizer has ", tokenizer.vocab_size(), " pieces, the model ",
                       source.config.vocab_size, " token ids"),
                   source.path.string(), "is this the tokenizer of another model?"});
    }
    out.bos_id = tokenizer.bos_id();
    out.eos_id = tokenizer.eos_id();
    out.tokenizer = tokenizer;
  }
  if (source.bos_id >= 0) out.bos_id = source.bos_id;
  if (source.eos_id >= 0) out.eos_id = source.eos_id;
  out.end_ids = source.end_ids;
  out.name = source.name;
  out.path = source.path;
  out.step = source.step;
  out.tokens_seen = source.tokens_seen;
  return out;
}

LoadedModel load_model(const fs::path& path, const LoadOptions& options) {
  const ModelSource source = open_model(path);
  LoadedModel out = described(source);
  out.model = make(source, options);
  return out;
}

}  // namespace kvsmith
