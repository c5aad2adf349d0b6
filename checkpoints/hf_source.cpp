#include <memory>
#include <optional>

#include <torch/types.h>

#include "checkpoints/hf_config.h"
#include "checkpoints/hf_gemma.h"
#include "checkpoints/hf_keys.h"
#include "checkpoints/hf_latents.h"
#include "checkpoints/mistral_large4.h"
#include "checkpoints/model_source.h"
#include "checkpoints/tokenizer_file.h"
#include "core/error.h"
#include "core/files.h"
#include "core/json_node.h"
#include "core/text.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

Json read_json(const fs::path& path) {
  constexpr uint64_t kLargest = uint64_t{1} << 26;
  constexpr int kMostLevels = 32;
  auto json = parse_ordered_json(read_file(path, kLargest), kMostLevels, path.string());
  if (!json.is_object())
    throw Error(ExitCode::kBadData,
                {cat("found ", json.type_name()), path.string(), "expected an object"});
  return json;
}

/// The tensors of a folder's safetensors files.
class Shards {
 public:
  explicit Shards(const fs::path& folder) {
    const fs::path index = folder / "model.safetensors.index.json";
    if (!fs::exists(index)) {
      const fs::path single = folder / "model.safetensors";
      for (const auto& [name, info] : open(single).tensors()) file_of_[name] = single;
      return;
    }
    read_json_of(index.string(), [&] {
      const Json json = read_json(index);
      for (const auto& [name, file] : json.at("weight_map").items())
        add(name, file.get<std::string>(), index);
    });
    for (const auto& [shard, file] : files_)  // what the index leaves out is there all the same
      for (const auto& [name, info] : file.tensors())
        if (const auto& first = file_of_.try_emplace(name, shard).first->second; first != shard) {
          throw Error(ExitCode::kBadData,
                      {cat("tensor ", name, " is in ", first.filename().string(), " as well"),
                       shard.string(), "download the folder again"});
        }
  }

  /// By tensor name.
  const std::map<std::string, fs::path>& names() const { return file_of_; }
  const TensorInfo& info(const std::string& name) const { return *file(name).find(name); }
  at::Tensor read(const std::string& name) const { return load_tensor(file(name), info(name)); }

 private:
  /// A line of the index.
  void add(const std::string& name, const fs::path& shard, const fs::path& index) {
    if (shard != shard.filename() || shard == "..") {
      throw Error(ExitCode::kBadData, {"shard name " + shard.string() + " is not a plain file name",
                                       index.string(), "the file is damaged or hostile"});
    }
    const fs::path path = index.parent_path() / shard;
    if (!open(path).find(name)) {
      throw Error(ExitCode::kBadData,
                  {"tensor " + name + " is not in the shard that the index names", path.string(),
                   "download the folder again"});
    }
    file_of_[name] = path;
  }
  const SafetensorsFile& open(const fs::path& path) {
    return files_.try_emplace(path, path).first->second;
  }
  const SafetensorsFile& file(const std::string& name) const {
    return files_.at(file_of_.at(name));
  }

  std::map<fs::path, SafetensorsFile> files_;
  std::map<std::string, fs::path> file_of_;
};

/// Token ids of a configuration: a number, a list, or none, as which negative ones count.
std::vector<int32_t> ids_of(const Json& json,
                            const char* key,
                            int64_t vocab_size,
                            const fs::path& path) {
  std::vector<int32_t> out;
  const Json value = json.value(key, Json());
  for (const auto& id : value.is_array() ? value : Json::array({value})) {
    if (!id.is_number_integer() || id < 0) continue;
    if (id >= vocab_size) {
      throw Error(ExitCode::kBadData, {cat(key, " is ", id.dump()), path.string(),
                                       cat("expected a token id below ", vocab_size)});
    }
    out.push_back(id.get<int32_t>());
  }
  return out;
}

/// The tokens that end a text: those of config.json, then more that generation_config.json has.
std::vector<int32_t> end_ids_of(const Json& json, int64_t vocab_size, const fs::path& folder) {
  auto out = ids_of(json, "eos_token_id", vocab_size, folder / "config.json");
  const auto path = folder / "generation_config.json";
  if (!fs::exists(path)) return out;
  for (const int32_t id : ids_of(read_json(path), "eos_token_id", vocab_size, path))
    if (std::ranges::count(out, id) == 0) out.push_back(id);
  return out;
}

/// Whether the tensor says nothing: classes of Hugging Face want it where a model has none.
bool is_filler(const std::string& name, const Shards& shards, const fs::path& folder) {
  struct Filler {
    const char* ending;
    double value;
    const char* what;
  };
  for (const Filler& filler :
       {Filler{".o_proj.bias", 0, "output biases"}, Filler{".layer_scalar", 1, "scaled layers"},
        Filler{".post_per_layer_input_norm.weight", 0, "per-layer embeddings"},
        Filler{".rotary_emb.alpha", 0, "learned frequencies"},
        Filler{".softmax_scaling.scale", 0, "scores scaled by the length of the text"},
        Filler{".softmax_scaling.bias", 1, "scaled scores"}}) {
    if (!name.ends_with(filler.ending)) continue;
    if (shards.read(name).ne(filler.value).any().item<bool>()) {
      throw Error(ExitCode::kConfig,
                  {cat(name, " is not ", filler.value, ", and ", filler.what, " are not supported"),
                   folder.string(), ""});
    }
    return true;
  }
  return name.find("per_layer") != name.npos;  // what the norm above has switched off
}

bool is_sink(const std::string& name) { return name.ends_with(".self_attn.sinks"); }

/// Sink logits that some layer uses: exporters write less where a model has none.
bool has_sinks(const Shards& shards) {
  constexpr double kNoSink = -1e29;
  for (const auto& [name, path] : shards.names())
    if (is_sink(name) && shards.read(name).gt(kNoSink).any().item<bool>()) return true;
  return false;
}

/// Every norm of latents stands for none, and there are some.
bool has_no_latent_norm(const Shards& shards, const Json& json) {
  bool found = false;
  for (const auto& [name, path] : shards.names()) {
    if (!is_latent_norm(name)) continue;
    if (!stands_for_no_norm(shards.read(name), json)) return false;
    found = true;
  }
  return found;
}

}  // namespace

ModelSource open_hf_folder(const fs::path& folder) {
  const std::string where = (folder / "config.json").string();
  ModelSource out;
  const Json json = read_json_of(where, [&] {
    Json read = without_nulls(mistral_large4::unwrapped(read_json(where)));
    out.config = from_hf_config(read, where);
    return read;
  });
  const bool is_mistral = json.at("model_type") == mistral_large4::kModelType;
  const auto shards = std::make_shared<const Shards>(folder);
  out.config.attention_sink_logits = out.config.attention_sink_logits && has_sinks(*shards);
  out.config.latent.latent_norm = !has_no_latent_norm(*shards, json);
  for (const auto& [stored, path] : shards->names()) {
    const std::string name = is_mistral ? mistral_large4::our_name_of(stored) : stored;
    if (name.empty()) continue;
    if (name.ends_with(".rotary_emb.inv_freq")) continue;  // early exporters: rope_theta says it
    // some exporters store the alias of a tied embedding as well
    if (out.config.tie_word_embeddings && name == kOutputMatrix) continue;
    if (is_filler(stored, *shards, folder)) continue;
    if (is_sink(name) && !out.config.attention_sink_logits) continue;
    if (is_latent_norm(name) && !out.config.latent.latent_norm) continue;
    const TensorInfo& info = shards->info(stored);
    out.tensors[name] = {info.shape, dtype_of(info.dtype, name)};
  }
  for (auto& [name, tensor] : out.tensors)
    if (is_offset_norm(json, name))
      tensor.type = at::kFloat;  // 1 + weight needs more digits than the weight
  const LatentForm form = latent_form_of(json, out.config.latent.latent_norm);
  out.read = [shards, is_mistral, json, form, sizes = out.config.latent](const std::string& name) {
    const auto tensor = shards->read(is_mistral ? mistral_large4::name_of(name) : name);
    if (is_offset_norm(json, name)) return tensor.to(torch::kFloat) + 1;
    return from_latent_form(name, tensor, form, sizes);
  };
  try {
    out.tokenizer = read_tokenizer(folder);
  } catch (const Error& error) {  // a kind that is not supported: the weights are of use without
    if (error.code() != ExitCode::kConfig) throw;
    out.tokenizer_problem = error.what();
  }
  // a tokenizer says whether texts begin with it; config.json has its id in any case
  const auto begin = ids_of(json, "bos_token_id", out.config.vocab_size, folder / "config.json");
  if (out.tokenizer.empty() && !begin.empty()) out.bos_id = begin[0];
  out.end_ids = end_ids_of(json, out.config.vocab_size, folder);
  if (!out.end_ids.empty()) {
    out.eos_id = out.end_ids[0];
    out.end_ids.erase(out.end_ids.begin());
  }
  out.name = fs::canonical(folder).filename().string();
  out.path = folder;
  return out;
}

}  // namespace kvsmith
