#include "models/decoder.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <torch/types.h>

#include "core/random.h"
#include "ops/checkpoint.h"
#include "ops/layers.h"

namespace kvsmith {

/// x + mixer(norm(x)), then x + mlp(norm(x)); with sandwich_norm both branches end in a norm too.
struct DecoderImpl::BlockImpl : torch::nn::Module {
  BlockImpl(const ModelConfig& config, const KvGraph& graph, int64_t layer)
      : dropout(config.dropout) {
    mixer = register_module("self_attn", mixer_kind(graph[layer].kind).make(config, graph, layer));
    rows = dynamic_cast<RowMixer*>(mixer.get());
    mlp = register_module(
        "mlp", GatedMlp(config.hidden_size, config.intermediate_size, config.hidden_act));
    const auto add_norm = [&](const char* name) {
      return register_module(name, RmsNorm(config.hidden_size, config.rms_norm_eps));
    };
    before_mixer = add_norm("input_layernorm");
    if (config.sandwich_norm) {  // under Gemma's names
      after_mixer = add_norm("post_attention_layernorm");
      before_mlp = add_norm("pre_feedforward_layernorm");
      after_mlp = add_norm("post_feedforward_layernorm");
    } else {
      before_mlp = add_norm("post_attention_layernorm");
    }
  }

  /// `mix` turns the normed input into the mixer's output.
  template <class Mix>
  at::Tensor forward(const at::Tensor& x, const Mix& mix) {
    auto mixed = x + ended(mix(before_mixer(x)), after_mixer);
    return mixed + ended(mlp(before_mlp(mixed)), after_mlp);
  }

  /// Some parameter is not frozen.
  bool learns() const {
    const auto all = parameters();
    return std::ranges::any_of(all, [](const at::Tensor& p) { return p.requires_grad(); });
  }

  /// What a branch adds to the residual stream.
  at::Tensor ended(at::Tensor branch, const RmsNorm& norm) const {
    if (norm) branch = norm->forward(branch);
    return dropout > 0 ? torch::dropout(branch, dropout, is_training()) : branch;
  }

  double dropout;
  std::shared_ptr<Mixer> mixer;
  RowMixer* rows;  ///< the mixer, where it is one of rows
  GatedMlp mlp{nullptr};
  RmsNorm before_mixer{nullptr}, after_mixer{nullptr}, before_mlp{nullptr}, after_mlp{nullptr};
};

namespace {

Rows with_reused_heads(const LayerSpec& spec, const Rows& own, const Rows& below) {
  return with_heads(own, below, {spec.reused_keys, spec.reused_values});
}

}  // namespace

/// One step of the model: carries rows from the layers that compute them to those that read them.
class DecoderImpl::Step {
 public:
  Step(DecoderImpl& model, const Positions& positions, KvCache& cache)
      : model_(model),
        graph_(model.graph_),
        positions_(positions),
        cache_(cache),
        shown_(static_cast<size_t>(graph_.size())) {}

  at::Tensor run_once(const Slice& slice, at::Tensor x) {
    for (int64_t layer = slice.first; layer < slice.last; ++layer) {
      x = advance(layer, x, [&](std::vector<at::Tensor> fresh) {
        return cache_.rows_of(layer).write(positions_, std::move(fresh));
      });
      // rows that were made for this step, such as decoded ones, are as large as the cache
      for (const int64_t source : graph_.sources(layer))
        if (graph_.last_reader(source) == layer) settle(source);
    }
    return x;
  }

  at::Tensor iterate(const Slice& slice, const at::Tensor& entering) {
    std::vector<Rows> past(shown_.size());
    std::vector<std::vector<at::Tensor>> fresh(shown_.size()), before;
    const auto each_owner = [&](const auto& act) {
      for (int64_t layer = slice.first; layer < slice.last; ++layer)
        if (graph_.is_owner(layer)) act(layer, static_cast<size_t>(layer));
    };
    each_owner([&](int64_t layer, size_t i) {
      cache_.rows_of(layer).rewind(positions_);
      past[i] = cache_.rows_of(layer).read();
      shown_[i] = block(layer)->rows->expand(past[i]);
    });

    const auto& config = model_.config_;
    const int64_t passes =
        std::min(config.forward_passes + config.backward_passes, positions_.seq());
    const bool compares = passes > 1 && model_.keeps_auxiliary_losses_ && model_.is_training() &&
                          torch::GradMode::is_enabled();
    at::Tensor x;
    for (int64_t pass = 0; pass < passes; ++pass) {
      const bool with_gradient = pass >= passes - config.backward_passes;
      const torch::AutoGradMode mode(with_gradient && torch::GradMode::is_enabled());
      is_final_ = pass == passes - 1;
      if (compares && pass == passes - 1) before = fresh;
      x = entering;
      for (int64_t layer = slice.first; layer < slice.last; ++layer) {
        const auto remember = [&](std::vector<at::Tensor> rows) {
          const auto i = static_cast<size_t>(layer);
          fresh[i] = std::move(rows);
          return joined(past[i], positions_, cache_.rows_of(layer).as_stored(positions_, fresh[i]));
        };
        // of the last layer, whose output enters no further pass, only rows are wanted until then
        if (!is_final_ && layer == slice.last - 1) {
          show(layer, block(layer)->before_mixer(x), remember);
        } else {
          x = advance(layer, x, remember);
        }
      }
    }
    each_owner([&](int64_t layer, size_t i) {
      if (compares && is_read_from_below(layer, slice)) add_change(before[i], fresh[i]);
      if (!fresh[i].empty()) cache_.rows_of(layer).write(positions_, fresh[i]);
      if (graph_.last_reader(layer) < slice.last) settle(layer);
    });
    for (int64_t layer = slice.first; layer < slice.last; ++layer)
      for (const int64_t source : graph_.sources(layer))
        if (source < slice.first && graph_.last_reader(source) == layer) settle(source);
    return x;
  }

 private:
  Block& block(int64_t layer) { return model_.blocks_[static_cast<size_t>(layer)]; }
  Rows& shown(int64_t layer) { return shown_[static_cast<size_t>(layer)]; }

  /// Nobody reads `owner` any more in this step.
  void settle(int64_t owner) {
    shown(owner) = {};
    if (graph_.is_owner(owner) && cache_.has_rows(owner)) cache_.rows_of(owner).settle();
  }

  /// Runs one layer. `remember` takes what it projects for the new tokens, and returns these rows
  /// behind those that it remembers.
  template <class Remember>
  at::Tensor advance(int64_t layer, const at::Tensor& x, const Remember& remember) {
    return model_.gradient_checkpointing_ && torch::GradMode::is_enabled()
               ? advance_lean(layer, x)
               : run(layer, x, remember);
  }

  template <class Remember>
  at::Tensor run(int64_t layer, const at::Tensor& x, const Remember& remember) {
    return block(layer)->forward(x, [&](const at::Tensor& normed) {
      auto mixed = mix(layer, normed, remember);
      if (is_final_ && model_.observer_) model_.observer_({layer, x, normed, mixed});
      return mixed;
    });
  }

  template <class Remember>
  at::Tensor mix(int64_t layer, const at::Tensor& normed, const Remember& remember) {
    RowMixer* rows = block(layer)->rows;
    if (!rows) return block(layer)->mixer->step(normed, positions_, cache_.of(layer));
    show(layer, normed, remember);
    Rows read = rows_for(layer);
    if (!is_final_) read.observer = nullptr;  // scores of earlier passes are not those that count
    return rows->attend(normed, positions_, read);
  }

  /// Computes the rows that `layer` has for others, if it has any.
  template <class Remember>
  void show(int64_t layer, const at::Tensor& normed, const Remember& remember) {
    RowMixer* rows = block(layer)->rows;
    if (graph_.is_owner(layer))
      shown(layer) = rows->expand(remember(rows->project(normed, positions_)));
    const LayerSpec& spec = graph_[layer];
    if (spec.reuses_heads()) shown(layer) = with_reused_heads(spec, shown(layer), shown(layer - 1));
  }

  /// Of the rows that `owner` is going to show.
  const HeadGates* gates_of(int64_t owner) {
    return cache_.has_rows(owner) ? cache_.rows_of(owner).read().gates : nullptr;
  }

  /// The same from nothing, keeping only its input, its output and the rows that it shows. Rows of
  /// other layers have to be inputs, or their gradients would be lost.
  at::Tensor advance_lean(int64_t layer, const at::Tensor& x) {
    std::vector<int64_t> others;
    std::vector<const HeadGates*> gates;  // of others, then its own
    std::vector<at::Tensor> inputs = {x};
    for (const int64_t source : graph_.sources(layer)) {
      if (source == layer || shown(source).empty()) continue;
      others.push_back(source);
      gates.push_back(gates_of(source));
      for (const auto& stream : shown(source).streams) inputs.push_back(stream);
    }
    gates.push_back(gates_of(layer));
    const bool has_gates = std::ranges::any_of(gates, [](const auto* of) { return of != nullptr; });
    const auto outputs = checkpointed(
        [&model = model_, positions = positions_, layer, others,
         gates](const std::vector<at::Tensor>& in) {
          auto cache = model.make_transient();
          Step step(model, positions, cache);
          const size_t streams = others.empty() ? 0 : (in.size() - 1) / others.size();
          for (size_t i = 0; i < others.size(); ++i) {
            const auto first = in.begin() + 1 + static_cast<int64_t>(i * streams);
            step.shown(others[i]) = {.streams = {first, first + static_cast<int64_t>(streams)},
                                     .positions = positions,
                                     .gates = gates[i]};
          }
          std::vector<at::Tensor> out = {step.run(layer, in[0], [&](auto fresh) {
            return Rows{.streams = std::move(fresh), .positions = positions, .gates = gates.back()};
          })};
          for (const auto& stream : step.shown(layer).streams) out.push_back(stream);
          return out;
        },
        inputs, block(layer)->learns() || has_gates);
    if (outputs.size() > 1) shown(layer) = {{outputs.begin() + 1, outputs.end()}, positions_};
    return outputs[0];
  }

  /// What `layer` reads, as its mixer expects it.
  Rows rows_for(int64_t layer) {
    const LayerSpec& spec = graph_[layer];
    const Rows &keys = shown(spec.k_source), &values = shown(spec.v_source);
    if (spec.k_source == spec.v_source || keys.empty() || values.empty()) {
      return keys.empty() ? keys : values;
    }
    Rows rows{{keys.streams[0], values.streams[1]}, keys.positions};
    if (spec.kind == "fused") {
      rows.streams.push_back(values.streams[0]);
      rows.streams.push_back(keys.streams[1]);
    }
    return rows;
  }

  bool is_read_from_below(int64_t owner, const Slice& slice) const {
    for (int64_t layer = slice.first; layer < owner; ++layer)
      if (graph_[layer].k_source == owner || graph_[layer].v_source == owner) return true;
    return false;
  }

  /// Adds what a pass has changed to the loss that draws passes together.
  void add_change(const std::vector<at::Tensor>& before, const std::vector<at::Tensor>& after) {
    for (size_t stream = 0; stream < after.size(); ++stream) {
      if (!after[stream].defined()) continue;
      accumulate(model_.kv_loss_,
                 (after[stream] - before[stream]).to(torch::kFloat).square().mean());
    }
  }

  DecoderImpl& model_;
  const KvGraph& graph_;
  const Positions& positions_;
  KvCache& cache_;
  std::vector<Rows> shown_;  ///< what each owner has to show so far
  bool is_final_ = true;     ///< no further pass over these layers follows
};

DecoderImpl::DecoderImpl(const ModelConfig& config) : config_(config), graph_(config) {
  auto body = register_module("model", std::make_shared<torch::nn::Module>());
  embed_tokens_ =
      body->register_module("embed_tokens", Embedding(config.vocab_size, config.hidden_size));
  auto layers = body->register_module("layers", std::make_shared<torch::nn::Module>());
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    blocks_.emplace_back(layers->register_module(std::to_string(i), Block(config, graph_, i)));
  }
  norm_ = body->register_module("norm", RmsNorm(config.hidden_size, config.rms_norm_eps));
  if (!config.tie_word_embeddings) {
    lm_head_ = register_module("lm_head", Linear(config.hidden_size, config.vocab_size, false));
  }
}

at::Tensor DecoderImpl::step(const at::Tensor& tokens, const Positions& positions, KvCache& cache) {
  kv_loss_.reset();
  Step step(*this, positions, cache);
  auto x = embed_tokens_(tokens).to(compute_type_);
  if (config_.scale_embeddings) x = x * std::sqrt(static_cast<double>(config_.hidden_size));
  for (const Slice& slice : graph_.slices())
    x = slice.is_cyclic ? step.iterate(slice, x) : step.run_once(slice, x);
  return norm_(x);
}

void DecoderImpl::keep_auxiliary_losses(bool keep) {
  keeps_auxiliary_losses_ = keep;
  for (auto& block : blocks_) block->mixer->keep_auxiliary_loss(keep);
}

std::vector<AuxiliaryLoss> DecoderImpl::take_auxiliary_losses() {
  std::vector<AuxiliaryLoss> out;
  const auto add = [&](AuxiliaryLoss loss) {
    if (!loss.value.defined()) return;
    const auto known = std::ranges::find(out, loss.name, &AuxiliaryLoss::name);
    if (known == out.end()) {
      out.push_back(std::move(loss));
    } else {
      known->value = known->value + loss.value;
    }
  };
  for (auto& block : blocks_) add(block->mixer->take_auxiliary_loss());
  add({"kv_loss", std::exchange(kv_loss_, {})});
  return out;
}

void DecoderImpl::set_passes(int64_t forward, int64_t backward) {
  config_.forward_passes = forward;
  config_.backward_passes = backward;
}

at::Tensor DecoderImpl::logits(const at::Tensor& hidden) const {
  return torch::matmul(hidden, head_weight().to(hidden.scalar_type()).t()).to(torch::kFloat);
}

at::Tensor DecoderImpl::forward(const at::Tensor& tokens) {
  auto cache = make_transient();
  return logits(step(tokens, Positions::range(0, tokens.size(1), tokens.device()), cache));
}

KvCache DecoderImpl::make_cache(const CacheOptions& options) const {
  return memories([&](const Mixer& mixer) { return mixer.make_cache(options); });
}

KvCache DecoderImpl::make_transient() const {
  return memories([](const Mixer& mixer) { return mixer.make_transient(); });
}

std::vector<Rows> DecoderImpl::shown_rows(KvCache& cache) const {
  std::vector<Rows> shown(blocks_.size());
  for (size_t i = 0; i < shown.size(); ++i) {
    const auto layer = static_cast<int64_t>(i);
    RowMixer* rows = blocks_[i]->rows;
    if (rows && graph_.is_owner(layer)) shown[i] = rows->expand(cache.rows_of(layer).read());
    if (graph_[layer].reuses_heads())
      shown[i] = with_reused_heads(graph_[layer], shown[i], shown[i - 1]);
  }
  return shown;
}

KvCache DecoderImpl::memories(
    const std::function<std::unique_ptr<Memory>(const Mixer&)>& make) const {
  std::vector<std::unique_ptr<Memory>> layers;
  for (int64_t i = 0; i < graph_.size(); ++i)
    layers.push_back(graph_.is_owner(i) ? make(*blocks_[static_cast<size_t>(i)]->mixer) : nullptr);
  return KvCache(std::move(layers));
}

at::Tensor DecoderImpl::head_weight() const {
  return lm_head_ ? lm_head_->effective_weight() : embed_tokens_->weight;
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
  for (const auto& module : model.modules(/*include_self=*/false))
    if (auto* mixer = dynamic_cast<Mixer*>(module.get())) mixer->initialize_own();
}

}  // namespace kvsmith
