#include <cmath>
#include <functional>
#include <string>
#include <tuple>
#include <vector>

#include <torch/types.h>

#include "checkpoints/export_gguf.h"
#include "checkpoints/gguf_source.h"
#include "checkpoints/load.h"
#include "core/files.h"
#include "core/gguf.h"
#include "core/text.h"
#include "data/byte_level.h"
#include "data/sentencepiece_writer.h"
#include "data/tokenizer_json_writer.h"
#include "tests/data/small_byte_bpe.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;
using Change = std::function<void(ModelConfig&)>;

LoadedModel random_model(const ModelConfig& config) {
  LoadedModel out;
  out.model = Decoder(config);
  initialize(*out.model, 3);
  const torch::NoGradGuard no_grad;
  for (auto& [name, tensor] : named_parameters(*out.model)) {  // norms and biases too
    torch::manual_seed(7);
    at::Tensor(tensor).add_(torch::randn_like(tensor), 0.05);
  }
  out.model->eval();
  out.bos_id = 1;
  out.eos_id = 2;
  out.name = "random";
  return out;
}

at::Tensor logits(const LoadedModel& loaded) {
  return Decoder(loaded.model)->forward(torch::arange(23, torch::kLong).unsqueeze(0)).detach();
}

struct Family {
  const char* architecture;
  Change change;
};

std::vector<Family> families() {
  return {{"llama", [](auto&) {}},
          {"llama",
           [](auto& m) {
             m.num_key_value_heads = 4;
             m.tie_word_embeddings = false;
           }},
          {"llama",
           [](auto& m) {
             m.num_key_value_heads = 1;
             m.head_dim = 16;  // 4 heads are wider than the residual stream
             m.rope_theta = 5e5;
             m.rms_norm_eps = 1e-6;
           }},
          {"deci", [](auto& m) { m.layer_num_key_value_heads = {2, 4}; }},
          {"deci",
           [](auto& m) {
             m.layer_num_key_value_heads = {2, 1};
             m.attention_bias = true;
           }},
          {"qwen2", [](auto& m) { m.attention_bias = true; }},
          {"qwen3", [](auto& m) {
             m.qk_norm = true;
             m.head_dim = 16;
           }}};
}

TEST(GgufExport, InFp32GivesTheSameModelBack) {
  const TemporaryDirectory directory;
  int number = 0;
  for (const auto& [architecture, change] : families()) {
    SCOPED_TRACE(cat(architecture, " ", number));
    const LoadedModel source = random_model(tiny_model(2, change));
    const auto path = directory / cat(number++, ".gguf");
    const auto report = export_gguf(source, path, GgmlType::kF32, false);
    EXPECT_EQ(report.max_logit_difference, 0);
    EXPECT_EQ(report.bytes, fs::file_size(path));
    const LoadedModel back = load_model(path);
    ModelConfig expected = source.model->config();
    expected.initializer_range = ModelConfig().initializer_range;  // of no use any more
    EXPECT_EQ(back.model->config(), expected);
    EXPECT_TRUE(torch::equal(logits(back), logits(source)));
    EXPECT_EQ(back.bos_id, 1);
    EXPECT_EQ(back.eos_id, 2);
    EXPECT_FALSE(back.tokenizer);
    const GgufFile file(path);
    EXPECT_EQ(file.text("general.architecture"), architecture);
    EXPECT_EQ(file.text("general.name"), "random");
    EXPECT_EQ(file.text("tokenizer.ggml.model"), "none");
    EXPECT_EQ(file.integer("general.file_type"), 0);
    EXPECT_EQ(file.find("output.weight") == nullptr, source.model->config().tie_word_embeddings);
  }
}

TEST(GgufExport, RowsOfLlamaAreInNeighbouringPairsAndOthersAreNot) {
  const TemporaryDirectory directory;
  for (const auto& [architecture, change] : families()) {
    const LoadedModel source = random_model(tiny_model(2, change));
    export_gguf(source, directory / "x.gguf", GgmlType::kF32, true);
    const GgufFile file(directory / "x.gguf");
    const GgufTensor& info = *file.find("blk.1.attn_k.weight");
    auto stored = torch::empty(info.shape);
    file.read(info, stored.data_ptr());
    at::Tensor ours;
    for (const auto& [name, tensor] : named_parameters(*source.model))
      if (name == "model.layers.1.self_attn.k_proj.weight") ours = tensor;
    const std::string family = architecture;
    const bool interleaved = family == "llama" || family == "deci";
    const int64_t head_dim = source.model->config().head_dim;
    for (int64_t row = 0; row < info.shape[0]; ++row) {
      // row 2 i + h of a head is our row h * half + i
      const int64_t head = row / head_dim, in_head = row % head_dim;
      const int64_t expected =
          interleaved ? head * head_dim + in_head % 2 * (head_dim / 2) + in_head / 2 : row;
      EXPECT_TRUE(torch::equal(stored[row], ours[expected])) << architecture << " row " << row;
    }
  }
}

TEST(GgufExport, SmallerTypesLoseAsMuchAsTheySay) {
  const TemporaryDirectory directory;
  const std::pair<const char*, double> largest[] = {
      {"f16", 2e-2}, {"bf16", 2e-1}, {"q8_0", 2e-1}, {"q4_0", 5}};
  uint64_t last = ~uint64_t{0};
  for (const bool tied : {true, false}) {
    const LoadedModel source =
        random_model(tiny_model(2, [&](auto& m) { m.tie_word_embeddings = tied; }));
    for (const auto& [name, limit] : largest) {
      SCOPED_TRACE(name);
      const auto path = directory / "x.gguf";
      const auto report = export_gguf(source, path, gguf_export_type(name), true);
      EXPECT_GT(report.max_logit_difference, 0);
      EXPECT_LT(report.max_logit_difference, limit);
      const auto difference = (logits(load_model(path)) - logits(source)).abs().max();
      EXPECT_LT(difference.item<double>(), limit);
      if (std::string(name) != "bf16" && std::string(name) != "f16") {
        EXPECT_LT(report.bytes, last);
      }
      last = report.bytes;
      const GgufFile file(path);
      for (const auto& [tensor, info] : file.tensors()) {
        const bool is_norm = tensor.find("norm") != tensor.npos;
        const bool is_output = tensor == (tied ? "token_embd.weight" : "output.weight");
        const GgmlType expected = is_norm ? GgmlType::kF32
                                  : is_output && std::string(name) == "q4_0"
                                      ? GgmlType::kQ80
                                      : gguf_export_type(name);
        EXPECT_EQ(static_cast<int>(info.type), static_cast<int>(expected)) << tensor;
      }
    }
    last = ~uint64_t{0};
  }
}

TEST(GgufExport, TypesHaveNames) {
  for (const auto& name : gguf_export_types()) EXPECT_TRUE(has_encoder(gguf_export_type(name)));
  expect_error([] { gguf_export_type("q8"); }, ExitCode::kUsage, "did you mean \"q8_0\"?");
}

TEST(GgufExport, MatricesWithoutWholeBlocksAreHalves) {
  const TemporaryDirectory directory;
  const LoadedModel source = random_model(tiny_model(2, [](auto& m) { m.intermediate_size = 48; }));
  export_gguf(source, directory / "x.gguf", GgmlType::kQ80, false);
  const GgufFile file(directory / "x.gguf");
  EXPECT_EQ(file.find("blk.0.ffn_down.weight")->type, GgmlType::kF16);
  EXPECT_EQ(file.find("blk.0.ffn_up.weight")->type, GgmlType::kQ80);
  EXPECT_EQ(open_gguf(directory / "x.gguf").tensors.at("model.layers.0.mlp.down_proj.weight").type,
            at::kHalf);
}

TEST(GgufExport, RefusesWhatItCannotHold) {
  const std::pair<Change, std::string> cases[] = {
      {[](auto& m) { m.pattern = "cla-2"; }, "layer 1 reads keys and values of layer 0"},
      {[](auto& m) { m.layer_types = {"latent"}; }, "layer 0 is of kind \"latent\""},
      {[](auto& m) {
         m.layer_types = {"sliding"};
         m.sliding_window = 8;
       },
       "layer 0 sees a window of 8 tokens (--format hf may hold it)"},
      {[](auto& m) {
         m.layer_num_key_value_heads = {2, 1};
         m.qk_norm = true;
       },
       "layer 1 has 1 key/value heads, layer 0 has 2, and queries and keys are normed"},
      {[](auto& m) { m.layer_rope_theta = {1e4, 0}; }, "layers differ in rope_theta, or have none"},
      {[](auto& m) { m.attention_sink_logits = true; }, "attention_sink_logits"},
      {[](auto& m) { m.qk_norm = m.attention_k_eq_v = true; }, "attention_k_eq_v"},
      {[](auto& m) { m.qk_norm = m.attention_bias = true; }, "biases (attention_bias) beside"},
      {[](auto& m) {
         m.attention_bias = true;
         m.head_dim = 16;
       },
       "4 heads of 16 are not hidden_size 32"},
  };
  const TemporaryDirectory directory;
  for (const auto& [change, part] : cases) {
    const LoadedModel source = random_model(tiny_model(2, change));
    const auto path = directory / "parent" / "refused.gguf";
    const auto refused = [&] { export_gguf(source, path, GgmlType::kF32, false); };
    expect_error(refused, ExitCode::kConfig, part);
    expect_error(refused, ExitCode::kConfig, "use --format kvsmith");
    EXPECT_FALSE(fs::exists(path.parent_path()));
  }
  LoadedModel source = random_model(tiny_model());
  const torch::NoGradGuard no_grad;
  at::Tensor(source.model->head_weight()).index_put_({0, 0}, 1e6);
  expect_error([&] { export_gguf(source, directory / "x", GgmlType::kF16, false); },
               ExitCode::kNumerical, "model.embed_tokens.weight holds values too large for F16");
  at::Tensor(source.model->head_weight()).index_put_({0, 0}, NAN);
  expect_error([&] { export_gguf(source, directory / "x", GgmlType::kF32, false); },
               ExitCode::kNumerical, "holds values that are not finite");
  EXPECT_TRUE(directory.names().empty());
}

TEST(GgufExport, KeepsASentencePieceTokenizer) {
  const TemporaryDirectory directory;
  LoadedModel source = random_model(tiny_model(2, [](auto& m) { m.vocab_size = 610; }));
  source.tokenizer = small_tokenizer();
  source.bos_id = source.tokenizer->bos_id();
  source.eos_id = source.tokenizer->eos_id();
  export_gguf(source, directory / "x.gguf", GgmlType::kF32, false);
  const LoadedModel back = load_model(directory / "x.gguf");
  ASSERT_TRUE(back.tokenizer);
  EXPECT_EQ(back.tokenizer->vocab_size(), 600);
  EXPECT_EQ(back.bos_id, source.bos_id);
  EXPECT_EQ(back.eos_id, source.eos_id);
  EXPECT_EQ(back.tokenizer->unk_id(), source.tokenizer->unk_id());
  for (const auto& text : nasty_texts(300))
    EXPECT_EQ(back.tokenizer->encode(text), source.tokenizer->encode(text)) << text;
  const GgufFile file(directory / "x.gguf");
  EXPECT_EQ(file.text("tokenizer.ggml.model"), "llama");
  EXPECT_EQ(file.texts("tokenizer.ggml.tokens").size(), 610U);
  EXPECT_EQ(file.texts("tokenizer.ggml.tokens")[609], "[PAD609]");
}

TEST(GgufExport, ASentencePieceTokenizerMayPutNoTokenBeforeTexts) {
  const TemporaryDirectory directory;
  LoadedModel source = random_model(tiny_model(2, [](auto& m) { m.vocab_size = 610; }));
  SentencePieceModel model = *small_tokenizer().sentencepiece();
  model.bos_id = -1;
  model.chat_template = "<|im_start|>";
  source.tokenizer = Tokenizer::from_bytes(sentencepiece_model_bytes(model), "model");
  source.bos_id = -1;
  export_gguf(source, directory / "x.gguf", GgmlType::kF32, false);
  EXPECT_FALSE(GgufFile(directory / "x.gguf").flag("tokenizer.ggml.add_bos_token"));
  const LoadedModel back = load_model(directory / "x.gguf");
  EXPECT_EQ(back.tokenizer->bos_id(), -1);
  EXPECT_EQ(back.bos_id, -1);
  EXPECT_EQ(back.tokenizer->chat_template(), "<|im_start|>");
}

TEST(GgufExport, RefusesAByteLevelTokenizerThatLlamaCppWouldUnderstandOtherwise) {
  const TemporaryDirectory directory;
  LoadedModel source = random_model(tiny_model(2, [](auto& m) { m.vocab_size = 512; }));
  for (const auto& [pre, from, to] : std::vector<std::tuple<const char*, const char*, const char*>>{
           {"gpt-2", R"("normalizer": null)", R"("normalizer": {"type": "NFC"})"},
           {"llama-bpe", R"("ignore_merges":true)", R"("ignore_merges":false)"}}) {
    std::string json = small_tokenizer_json(pre);
    const size_t at = json.find(from);
    ASSERT_NE(at, json.npos) << pre;
    source.tokenizer =
        Tokenizer::from_bytes(json.replace(at, std::string(from).size(), to), "changed");
    expect_error([&] { export_gguf(source, directory / "x", GgmlType::kF32, true); },
                 ExitCode::kBadData, pre);
  }
}

/// All bytes, two merges, three control tokens and one of the user's, as SmolLM2 has it.
TokenizerParts tiny_byte_level() {
  TokenizerParts parts;
  parts.pre = "smollm";
  parts.tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  parts.token_types.assign(3, TokenizerParts::kControl);
  for (int byte = 0; byte < 256; ++byte)
    parts.tokens.push_back(byte_level_symbol(static_cast<unsigned char>(byte)));
  parts.tokens.insert(parts.tokens.end(), {"th", "the"});
  parts.token_types.resize(parts.tokens.size(), TokenizerParts::kNormal);
  parts.tokens.emplace_back("<tool>");
  parts.token_types.push_back(TokenizerParts::kUserDefined);
  parts.merges = {"t h", "th e"};
  parts.bos_id = 1;
  parts.eos_id = parts.pad_id = 2;
  parts.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}";
  return parts;
}

TEST(GgufExport, KeepsAByteLevelTokenizer) {
  const TemporaryDirectory directory;
  for (const bool adds_bos : {false, true}) {
    LoadedModel source = random_model(tiny_model(2, [](auto& m) { m.vocab_size = 270; }));
    TokenizerParts parts = tiny_byte_level();
    parts.adds_bos = adds_bos;
    source.tokenizer = Tokenizer::from_bytes(make_tokenizer_json(parts, "parts"), "parts");
    source.bos_id = source.tokenizer->bos_id();
    source.eos_id = source.tokenizer->eos_id();
    EXPECT_EQ(source.bos_id, adds_bos ? 1 : -1);
    export_gguf(source, directory / "x.gguf", GgmlType::kF32, true);
    const LoadedModel back = load_model(directory / "x.gguf");
    ASSERT_TRUE(back.tokenizer);
    EXPECT_EQ(back.tokenizer->bytes(), source.tokenizer->bytes());
    EXPECT_EQ(back.bos_id, source.bos_id);
    EXPECT_EQ(back.eos_id, 2);
    for (const auto& text : nasty_texts(100))
      EXPECT_EQ(back.tokenizer->encode(text), source.tokenizer->encode(text)) << text;
    const GgufFile file(directory / "x.gguf");
    EXPECT_EQ(file.text("tokenizer.ggml.model"), "gpt2");
    EXPECT_EQ(file.text("tokenizer.ggml.pre"), "smollm");
    EXPECT_EQ(file.integer("tokenizer.ggml.bos_token_id"), 1);
    EXPECT_EQ(file.flag("tokenizer.ggml.add_bos_token"), adds_bos);
    EXPECT_EQ(file.text("tokenizer.chat_template"), parts.chat_template);
    EXPECT_EQ(file.texts("tokenizer.ggml.merges"), (std::vector<std::string_view>{"t h", "th e"}));
    EXPECT_EQ(file.texts("tokenizer.ggml.tokens")[269], "[PAD269]");
  }
}

}  // namespace
}  // namespace kvsmith
