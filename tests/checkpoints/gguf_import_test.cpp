#include <functional>
#include <string>
#include <vector>

#include <torch/types.h>

#include "checkpoints/gguf_source.h"
#include "checkpoints/load.h"
#include "core/files.h"
#include "core/gguf.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_directory.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

/// A file of a tiny llama whose metadata and tensors a test may change.
struct Draft {
  std::vector<std::pair<std::string, std::function<void(GgufMetadata&, const std::string&)>>> keys;
  std::vector<GgufTensor> tensors;

  void set(const std::string& key, std::function<void(GgufMetadata&, const std::string&)> add) {
    for (auto& [name, how] : keys) {
      if (name != key) continue;
      how = std::move(add);
      return;
    }
    keys.emplace_back(key, std::move(add));
  }
  void erase(const std::string& key) {
    std::erase_if(keys, [&](const auto& entry) { return entry.first == key; });
  }
  fs::path write(const fs::path& path) const {
    GgufMetadata metadata;
    for (const auto& [name, add] : keys) add(metadata, name);
    GgufWriter writer(path, metadata, tensors);
    for (const auto& tensor : std::vector<GgufTensor>(writer.tensors()))
      writer.write(tensor.name, std::string(tensor.bytes, '\0').data(), tensor.bytes);
    writer.commit();
    return path;
  }
};

auto number(int64_t value) {
  return [value](GgufMetadata& m, const std::string& key) {
    m.add_uint32(key, static_cast<uint32_t>(value));
  };
}
auto real(float value) {
  return [value](GgufMetadata& m, const std::string& key) { m.add_float32(key, value); };
}
auto words(const std::string& value) {
  return [value](GgufMetadata& m, const std::string& key) { m.add_text(key, value); };
}
auto list(const std::vector<int32_t>& values) {
  return [values](GgufMetadata& m, const std::string& key) { m.add_int32s(key, values); };
}

Draft tiny_llama() {
  Draft draft;
  draft.set("general.architecture", words("llama"));
  draft.set("llama.context_length", number(64));
  draft.set("llama.embedding_length", number(32));
  draft.set("llama.block_count", number(2));
  draft.set("llama.feed_forward_length", number(64));
  draft.set("llama.attention.head_count", number(4));
  draft.set("llama.attention.head_count_kv", number(2));
  draft.set("llama.attention.layer_norm_rms_epsilon", real(1e-5F));
  draft.set("llama.rope.dimension_count", number(8));
  draft.tensors = {{.name = "token_embd.weight", .shape = {50, 32}},
                   {.name = "output_norm.weight", .shape = {32}}};
  for (const std::string block : {"blk.0.", "blk.1."}) {
    for (const auto& [name, shape] :
         std::vector<std::pair<std::string, std::vector<int64_t>>>{{"attn_norm", {32}},
                                                                   {"attn_q", {32, 32}},
                                                                   {"attn_k", {16, 32}},
                                                                   {"attn_v", {16, 32}},
                                                                   {"attn_output", {32, 32}},
                                                                   {"ffn_norm", {32}},
                                                                   {"ffn_gate", {64, 32}},
                                                                   {"ffn_up", {64, 32}},
                                                                   {"ffn_down", {32, 64}}})
      draft.tensors.push_back({.name = block + name + ".weight", .shape = shape});
  }
  return draft;
}

TEST(GgufImport, TakesWhatIsMissingFromTheSpecification) {
  const TemporaryDirectory directory;
  Draft draft = tiny_llama();
  const ModelSource plain = open_model(draft.write(directory / "plain.gguf"));
  EXPECT_EQ(plain.config.rope_theta, 10000);
  EXPECT_EQ(plain.config.rms_norm_eps, 1e-5);
  EXPECT_EQ(plain.config.head_dim, 8);
  EXPECT_EQ(plain.config.vocab_size, 50);
  EXPECT_TRUE(plain.config.tie_word_embeddings);
  EXPECT_EQ(plain.config.num_key_value_heads, 2);
  EXPECT_EQ(plain.tensors.size(), 20U);
  EXPECT_EQ(plain.bos_id, -1);
  EXPECT_EQ(plain.name, "plain");
  (void)load_model(directory / "plain.gguf");

  // neutral values, numbers of each layer, an untied head
  draft.set("llama.expert_count", number(0));
  draft.set("llama.rope.scaling.type", words("none"));
  draft.set("llama.rope.scaling.factor", real(1));
  draft.set("llama.attention.head_count", list({4, 4}));
  draft.set("llama.attention.head_count_kv", list({2, 2}));
  draft.tensors.push_back({.name = "output.weight", .type = GgmlType::kBF16, .shape = {50, 32}});
  draft.write(directory / "x.gguf");
  const ModelSource source = open_gguf(directory / "x.gguf");
  EXPECT_EQ(source.config.num_key_value_heads, 2);
  EXPECT_FALSE(source.config.tie_word_embeddings);
  EXPECT_EQ(source.tensors.at("lm_head.weight").type, at::kBFloat16);
  EXPECT_EQ(source.read("lm_head.weight").scalar_type(), at::kBFloat16);
  (void)load_model(directory / "x.gguf");
}

TEST(GgufImport, RefusesWhatWouldComputeSomethingElse) {
  const struct {
    std::function<void(Draft&)> change;
    ExitCode code;
    const char* message;
  } cases[] = {
      {[](Draft& d) { d.erase("general.architecture"); }, ExitCode::kConfig,
       "metadata \"general.architecture\" is missing"},
      {[](Draft& d) { d.set("general.architecture", words("gemma3")); }, ExitCode::kConfig,
       "architecture \"gemma3\" is not supported; supported: llama, deci, qwen2, qwen3"},
      {[](Draft& d) { d.set("general.architecture", number(1)); }, ExitCode::kBadData,
       "expected a text"},
      {[](Draft& d) { d.set("general.type", words("adapter")); }, ExitCode::kConfig,
       "general.type is \"adapter\""},
      {[](Draft& d) { d.set("split.count", number(2)); }, ExitCode::kConfig, "several shards"},
      {[](Draft& d) { d.erase("llama.block_count"); }, ExitCode::kConfig,
       "metadata \"llama.block_count\" is missing"},
      {[](Draft& d) { d.set("llama.block_count", number(5000)); }, ExitCode::kBadData,
       "\"llama.block_count\" is 5000; expected 1 to 4096"},
      {[](Draft& d) { d.set("llama.attention.head_count", number(0)); }, ExitCode::kBadData,
       "expected at least 1"},
      {[](Draft& d) { d.set("llama.attention.head_count", list({4, 2})); }, ExitCode::kConfig,
       "differs between layers"},
      {[](Draft& d) { d.set("llama.attention.head_count_kv", list({2, 1, 2})); },
       ExitCode::kBadData, "has 3 elements for 2 layers"},
      {[](Draft& d) { d.set("llama.attention.head_count_kv", list({2, 1})); }, ExitCode::kConfig,
       "\"llama.attention.head_count_kv\" differs between layers"},
      {[](Draft& d) { d.set("llama.attention.head_count_kv", number(3)); }, ExitCode::kConfig,
       "num_key_value_heads"},
      {[](Draft& d) { d.set("llama.rope.dimension_count", number(4)); }, ExitCode::kConfig,
       "\"llama.rope.dimension_count\" is 4, and heads are 8 wide"},
      {[](Draft& d) { d.set("llama.attention.value_length", number(4)); }, ExitCode::kConfig,
       "only equal widths"},
      {[](Draft& d) { d.set("llama.rope.scaling.type", words("yarn")); }, ExitCode::kConfig,
       "\"llama.rope.scaling.type\" is not supported; it may change what the model computes"},
      {[](Draft& d) { d.set("llama.rope.scale_linear", real(2)); }, ExitCode::kConfig,
       "\"llama.rope.scale_linear\" is not supported"},
      {[](Draft& d) { d.set("llama.expert_count", number(8)); }, ExitCode::kConfig,
       "\"llama.expert_count\" is not supported"},
      {[](Draft& d) { d.set("llama.logit_scale", real(1)); }, ExitCode::kConfig,
       "\"llama.logit_scale\" is not supported"},
      {[](Draft& d) { d.tensors.push_back({.name = "rope_freqs.weight", .shape = {4}}); },
       ExitCode::kConfig, "\"rope_freqs.weight\" is not supported; only unscaled rotary"},
      {[](Draft& d) { d.tensors.push_back({.name = "blk.0.ffn_gate_inp.weight", .shape = {4}}); },
       ExitCode::kConfig, "no mixtures of experts"},
      {[](Draft& d) { d.tensors.push_back({.name = "blk.x.attn_q.weight", .shape = {4}}); },
       ExitCode::kConfig, "\"blk.x.attn_q.weight\" is not supported"},
      {[](Draft& d) { d.tensors.push_back({.name = "blk.0.attn_q_norm.weight", .shape = {8}}); },
       ExitCode::kConfig, "an architecture llama with normed queries"},
      {[](Draft& d) { d.tensors[0].name = "blk.0.attn_q.bias"; }, ExitCode::kConfig,
       "tensor \"token_embd.weight\" is missing"},
      {[](Draft& d) { d.tensors.pop_back(); }, ExitCode::kConfig,
       "missing model.layers.1.mlp.down_proj.weight"},
      {[](Draft& d) { d.tensors[1].shape = {31}; }, ExitCode::kConfig,
       "model.norm.weight is [31], expected [32]"},
      {[](Draft& d) { d.tensors.push_back({.name = "blk.2.attn_q.weight", .shape = {32, 32}}); },
       ExitCode::kConfig, "surplus model.layers.2.self_attn.q_proj.weight"},
      {[](Draft& d) { d.set("tokenizer.ggml.bos_token_id", number(50)); }, ExitCode::kBadData,
       "\"tokenizer.ggml.bos_token_id\" is 50; expected a token id below 50"},
  };
  const TemporaryDirectory directory;
  for (const auto& [change, code, message] : cases) {
    Draft draft = tiny_llama();
    change(draft);
    const auto path = draft.write(directory / "x.gguf");
    expect_error([&] { load_model(path); }, code, message);
    expect_error([&] { load_model(path); }, code, path.string());
  }
}

TEST(GgufImport, WithoutATokenizerOfASupportedKindTheWeightsAreOfUse) {
  const TemporaryDirectory directory;
  Draft draft = tiny_llama();
  const auto texts = [](const std::vector<std::string>& values) {
    return [values](GgufMetadata& m, const std::string& key) { m.add_texts(key, values); };
  };
  draft.set("tokenizer.ggml.model", words("gpt2"));
  draft.set("tokenizer.ggml.pre", words("tekken"));
  draft.set("tokenizer.ggml.tokens", texts({"a", "b", "ab"}));
  draft.set("tokenizer.ggml.merges", texts({"a b"}));
  const ModelSource source = open_model(draft.write(directory / "x.gguf"));
  EXPECT_TRUE(source.tokenizer.empty());
  EXPECT_NE(source.tokenizer_problem.find("tekken"), std::string::npos) << source.tokenizer_problem;
}

TEST(GgufImport, EveryTruncationAndFlippedByteIsAnErrorOrAModel) {
  const TemporaryDirectory directory;
  const auto path = tiny_llama().write(directory / "x.gguf");
  const std::string bytes = read_file(path);
  const auto header = GgufFile(path).find("token_embd.weight")->offset;
  int models = 0;
  const auto try_it = [&](const std::string& damaged) {
    write_file(directory / "y.gguf", damaged);
    try {
      (void)open_gguf(directory / "y.gguf");
      ++models;
    } catch (const Error& error) {
      EXPECT_TRUE(error.code() == ExitCode::kBadData || error.code() == ExitCode::kConfig)
          << error.what();
    }
  };
  for (size_t size = 0; size < header; size += 7) try_it(bytes.substr(0, size));
  EXPECT_EQ(models, 0);
  for (size_t at = 0; at < header; ++at) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ (at % 2 ? 0x80 : 0x01));
    try_it(damaged);
  }
  EXPECT_GT(models, 0);  // a head more or less, another theta
}

}  // namespace
}  // namespace kvsmith
