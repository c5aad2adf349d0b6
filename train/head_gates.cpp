#include "train/head_gates.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <memory>
#include <utility>

#include <torch/types.h>

#include "core/error.h"
#include "core/stopwatch.h"
#include "core/text.h"
#include "models/weights_hash.h"
#include "train/optimizer.h"
#include "train/schedule.h"

namespace kvsmith {
namespace {

[[noreturn]] void refuse(const KvGraph& graph) {
  throw Error(ExitCode::kConfig,
              {cat("no key/value head can have a gate: ", obstacle_to_head_gates(graph, 0)),
               "model.layer_types",
               "gates need layers of kind full or autoencoded whose readers read nothing else"});
}

/// While it lives, steps of the model with gradients keep little in memory.
class LeanSteps {
 public:
  explicit LeanSteps(DecoderImpl& model) : model_(model) {
    model_.set_gradient_checkpointing(true);
  }
  ~LeanSteps() { model_.set_gradient_checkpointing(false); }
  LeanSteps(const LeanSteps&) = delete;
  LeanSteps& operator=(const LeanSteps&) = delete;

 private:
  DecoderImpl& model_;
};

/// The gates of a model while they are learned.
class Gates {
 public:
  Gates(DecoderImpl& model, const HeadGateOptions& options)
      : model_(model), layers_(layers_with_head_gates(model.graph())) {
    if (layers_.empty()) refuse(model.graph());
    for (const int64_t layer : layers_) {
      const auto alpha = torch::ones({model.graph()[layer].kv_heads},
                                     torch::dtype(torch::kFloat).device(model.device()));
      gates_.push_back({alpha.requires_grad_(), options.sinks, options.window});
    }
  }

  /// An empty memory for one pass, with the gates at work. Refers to them.
  KvCache memory() const {
    KvCache cache = model_.make_transient();
    for (size_t i = 0; i < layers_.size(); ++i)
      cache.replace(layers_[i], std::make_unique<TransientRows>(&gates_[i]));
    return cache;
  }
  std::vector<std::pair<std::string, at::Tensor>> parameters() const {
    std::vector<std::pair<std::string, at::Tensor>> out;
    for (size_t i = 0; i < layers_.size(); ++i)
      out.emplace_back(cat("layers.", layers_[i], ".gates"), gates_[i].alpha);
    return out;
  }
  /// Mean over all heads; with its gradient.
  at::Tensor mean() const {
    std::vector<at::Tensor> all;
    for (const HeadGates& of : gates_) all.push_back(of.alpha);
    return torch::cat(all).abs().mean();
  }
  void clamp() {
    const torch::NoGradGuard no_grad;
    for (HeadGates& of : gates_) of.alpha.clamp_(0, 1);
  }
  std::vector<HeadGatesFile::Layer> values() const {
    std::vector<HeadGatesFile::Layer> out;
    for (size_t i = 0; i < layers_.size(); ++i) {
      const auto alpha = gates_[i].alpha.detach().cpu();
      const auto* first = alpha.const_data_ptr<float>();
      out.push_back({.layer = layers_[i], .gates = {first, first + alpha.numel()}});
    }
    return out;
  }

 private:
  DecoderImpl& model_;
  std::vector<int64_t> layers_;
  std::deque<HeadGates> gates_;  ///< of each layer; memories point to them
};

/// Places whose hidden states predict the answers: those before each of their tokens.
at::Tensor asking_places(const GateSample& sample, at::Device device) {
  std::vector<at::Tensor> out;
  for (const Span& answer : sample.answers)
    out.push_back(torch::arange(answer.first - 1, answer.end() - 1, torch::kLong));
  return torch::cat(out).to(device);
}

/// Mean over answer tokens and dimensions of the squared difference of hidden states after the last
/// norm, as published, which is not relative to their size.
at::Tensor difference(DecoderImpl& model, const Gates& gates, const GateSample& sample) {
  const auto device = model.device();
  const auto tokens = torch::tensor(sample.tokens, torch::kLong).unsqueeze(0).to(device);
  const auto positions = Positions::range(0, tokens.size(1), device);
  const auto places = asking_places(sample, device);
  const auto states = [&](KvCache cache) {
    return model.step(tokens, positions, cache).index_select(1, places).to(torch::kFloat);
  };
  at::Tensor wanted;
  {
    const torch::NoGradGuard no_grad;
    wanted = states(model.make_transient());
  }
  return (states(gates.memory()) - wanted).square().mean();
}

/// Rises and falls over a fifth of the steps each, with a tenth of the peak at the end, as
/// published; so are the moments of AdamW.
TrainConfig course_of(const HeadGateOptions& options) {
  TrainConfig config;
  config.max_steps = options.steps;
  config.learning_rate = options.learning_rate;
  config.min_learning_rate = options.learning_rate / 10;
  config.lr_scheduler = "wsd";
  config.warmup_steps = options.steps / 5;
  config.decay_steps = options.steps / 5;
  config.adam_beta1 = 0.9;
  config.adam_beta2 = 0.999;
  config.weight_decay = 0;
  return config;
}

}  // namespace

HeadGatesFile learn_head_gates(DecoderImpl& model,
                               const HeadGateOptions& options,
                               const GateSamples& samples,
                               const std::function<void(const HeadGateStep&)>& on_step) {
  Gates gates(model, options);
  model.eval();
  for (const auto& parameter : model.parameters()) parameter.set_requires_grad(false);
  const LeanSteps lean(model);
  const TrainConfig course = course_of(options);
  AdamW optimizer(gates.parameters(), course);

  HeadGatesFile out{.weights = hash_of_weights(model, torch::kBFloat16),
                    .sinks = options.sinks,
                    .window = options.window,
                    .steps = options.steps,
                    .layers = {}};
  uint64_t next = 0;
  for (int64_t step = 0; step < options.steps; ++step) {
    const Stopwatch watch;
    double changed = 0;
    optimizer.zero_gradients();
    for (int64_t i = 0; i < options.batch; ++i) {
      const GateSample sample = samples(next++);
      out.context = std::max(out.context, std::ssize(sample.tokens));
      const auto of_sample = difference(model, gates, sample) / static_cast<double>(options.batch);
      of_sample.backward();
      changed += of_sample.item<double>();
    }
    (options.regularisation * gates.mean()).backward();
    if (!std::isfinite(changed)) {
      throw Error(ExitCode::kNumerical, {cat("a difference of ", changed, " at step ", step + 1),
                                         "learning head gates", "try --dtype fp32"});
    }
    const double rate = learning_rate(course, step);
    optimizer.step(rate);
    gates.clamp();
    if (!on_step) continue;
    on_step({.step = step + 1,
             .difference = changed,
             .mean_gate = gates.mean().item<double>(),
             .learning_rate = rate,
             .seconds = watch.seconds()});
  }
  out.layers = gates.values();
  return out;
}

}  // namespace kvsmith
