#include "models/decoder.h"

#include <cmath>

#include <torch/types.h>

#include "core/random.h"

namespace kvsmith {

/// x + mixer(norm(x)), then x + mlp(norm(x)).
struct DecoderImpl::BlockImpl : torch::nn::Module {
  BlockImpl(const ModelConfig& config, int64_t layer) : dropout(config.dropout) {
    mixer = register_module("self_attn", mixer_kind(config.mixer).make(config, layer));
    mlp = register_module("mlp", SwiGlu(config.hidden_size, config.intermediate_size));
    input_norm =
        register_module("input_layernorm", RmsNorm(config.hidden_size, config.rms_norm_eps));
    post_norm = register_module("post_attention_layernorm",
                                RmsNorm(config.hidden_size, config.rms_norm_eps));
  }

  at::Tensor forward(const at::Tensor& x, const Positions& positions, Memory& memory) {
    auto mixed = x + drop(mixer->step(input_norm(x), positions, memory));
    return mixed + drop(mlp(post_norm(mixed)));
  }

  at::Tensor drop(const at::Tensor& branch) const {
    return dropout > 0 ? torch::dropout(branch, dropout, is_training()) : branch;
  }

  double dropout;
  std::shared_ptr<Mixer> mixer;
  SwiGlu mlp{nullptr};
  RmsNorm input_norm{nullptr}, post_norm{nullptr};
};

DecoderImpl::DecoderImpl(const ModelConfig& config) : config_(config) {
  auto body = register_module("model", std::make_shared<torch::nn::Module>());
  embed_tokens_ =
      body->register_module("embed_tokens", Embedding(config.vocab_size, config.hidden_size));
  auto layers = body->register_module("layers", std::make_shared<torch::nn::Module>());
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    blocks_.emplace_back(layers->register_module(std::to_string(i), Block(config, i)));
  }
  norm_ = body->register_module("norm", RmsNorm(config.hidden_size, config.rms_norm_eps));
  if (!config.tie_word_embeddings) {
    lm_head_ = register_module("lm_head", Linear(config.hidden_size, config.vocab_size, false));
  }
}

at::Tensor DecoderImpl::step(const at::Tensor& tokens, const Positions& positions, KvCache& cache) {
  auto x = embed_tokens_(tokens).to(compute_type_);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    x = blocks_[i]->forward(x, positions, cache.of(static_cast<int64_t>(i)));
  }
  return norm_(x);
}

at::Tensor DecoderImpl::logits(const at::Tensor& hidden) const {
  return torch::matmul(hidden, head_weight().to(hidden.scalar_type()).t()).to(torch::kFloat);
}

at::Tensor DecoderImpl::forward(const at::Tensor& tokens) {
  auto cache = make_transient();
  return logits(step(tokens, Positions::range(0, tokens.size(1), tokens.device()), cache));
}

KvCache DecoderImpl::make_cache(const CacheOptions& options) const {
  std::vector<std::unique_ptr<Memory>> layers;
  for (const auto& block : blocks_) layers.push_back(block->mixer->make_cache(options));
  return KvCache(std::move(layers));
}

KvCache DecoderImpl::make_transient() const {
  std::vector<std::unique_ptr<Memory>> layers;
  for (const auto& block : blocks_) layers.push_back(block->mixer->make_transient());
  return KvCache(std::move(layers));
}

const at::Tensor& DecoderImpl::head_weight() const {
  return lm_head_ ? lm_head_->weight : embed_tokens_->weight;
}

int64_t DecoderImpl::parameter_count() const {
  int64_t count = 0;
  for (const auto& parameter : parameters()) count += parameter.numel();
  return count;
}

std::vector<std::pair<std::string, at::Tensor>> named_parameters(const DecoderImpl& model) {
  std::vector<std::pair<std::string, at::Tensor>> out;
  for (const auto& item : model.named_parameters()) out.emplace_back(item.key(), item.value());
  return out;
}

void initialize(DecoderImpl& model, uint64_t seed) {
  const torch::NoGradGuard no_grad;
  const auto& config = model.config();
  const double std = config.initializer_range;
  const double ending = std / std::sqrt(2.0 * static_cast<double>(config.num_hidden_layers));
  for (auto& [name, value] : named_parameters(model)) {
    if (value.dim() == 1) {
      value.fill_(name.ends_with(".bias") ? 0 : 1);
      continue;
    }
    auto generator = at::detail::createCPUGenerator(hash_of(seed, "init " + name));
    const bool ends_branch = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
    value.copy_(
        torch::empty_like(value, torch::kCPU).normal_(0, ends_branch ? ending : std, generator));
  }
}

}  // namespace kvsmith
