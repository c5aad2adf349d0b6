#include "ops/losses.h"

#include <algorithm>
#include <vector>

#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

namespace kvsmith {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

/// Rows of logits alive at once: large enough for a full-speed matrix product.
int64_t chunk_rows(int64_t vocab_size) {
  constexpr int64_t kElements = int64_t{1} << 24;  // 64 MiB of fp32 logits
  return std::max<int64_t>(64, kElements / vocab_size);
}

/// The loss of a chunk of tokens, and its gradient by logits.
class Chunk {
 public:
  /// logits: [rows, vocab_size] in the compute type; targets: [rows].
  Chunk(const at::Tensor& logits, const at::Tensor& targets)
      : target_(targets.clamp_min(0).unsqueeze(1)),
        learnt_(targets.ge(0)),
        log_p_(torch::log_softmax(logits, -1, torch::kFloat)) {}

  at::Tensor cross_entropy() const { return -sum_of_learnt(log_p_of_targets()); }

  /// [rows]; of what is not learnt any number.
  at::Tensor log_p_of_targets() const { return log_p_.gather(1, target_).squeeze(1); }

  /// Of the teacher from the model, both softened. Keeps the gradient for later.
  at::Tensor divergence(const at::Tensor& teacher_logits, double temperature) {
    const auto teacher = torch::log_softmax(teacher_logits.to(torch::kFloat) / temperature, -1);
    const auto model = softened(temperature);
    const auto p = teacher.exp();
    pull_ = model.exp().sub_(p).mul_(temperature);  // of temperature^2 * divergence
    return sum_of_learnt((p * (teacher - model)).sum(1));
  }

  /// The same between the tokens that the teacher names and, as one more, all others together.
  at::Tensor divergence(const TopTokens& top, double temperature) {
    const auto model = softened(temperature);
    const auto teacher = top.log_p.to(torch::kFloat), p = teacher.exp();
    const auto named = model.gather(1, top.ids), q = named.exp();
    // fp16 may round the sum of p to a little more than 1
    const auto p_rest = (1 - p.sum(1)).clamp_min(0), q_rest = (1 - q.sum(1)).clamp_min(1e-6);
    const auto ratio = p_rest / q_rest;
    // the gradient is what a teacher gives who spreads the rest as the model does
    pull_ =
        model.exp().mul_((1 - ratio).unsqueeze(1)).scatter_(1, top.ids, q - p).mul_(temperature);
    return sum_of_learnt((p * (teacher - named)).sum(1) + torch::xlogy(p_rest, ratio));
  }

  /// [rows, vocab_size] fp32; `share` of the divergence. The last use of this chunk.
  at::Tensor gradient(double share) {
    auto& grad = log_p_.exp_();
    grad.scatter_add_(1, target_, torch::full_like(target_, -1, torch::kFloat));
    if (pull_.defined()) grad.mul_(1 - share).add_(pull_, share);
    return grad.mul_(learnt_.unsqueeze(1));
  }

 private:
  /// log softmax(logits / temperature): log p is the logits less what is the same for all tokens.
  at::Tensor softened(double temperature) const {
    return temperature == 1 ? log_p_ : torch::log_softmax(log_p_ / temperature, -1);
  }
  at::Tensor sum_of_learnt(const at::Tensor& rows) const {
    return rows.masked_fill(learnt_.logical_not(), 0).sum();
  }

  at::Tensor target_, learnt_, log_p_, pull_;
};

/// Logits of some of the rows of `hidden`, in its type.
at::Tensor logits_of(const at::Tensor& hidden,
                     const at::Tensor& weight,
                     int64_t first,
                     int64_t rows) {
  return torch::matmul(hidden.narrow(0, first, rows), weight.to(hidden.scalar_type()).t());
}

at::Tensor divergence(Chunk& chunk, const Teaching& teaching, int64_t first, int64_t rows) {
  const auto& top = teaching.top;
  if (top.ids.defined()) {
    return chunk.divergence({top.ids.narrow(0, first, rows), top.log_p.narrow(0, first, rows)},
                            teaching.temperature);
  }
  return chunk.divergence(logits_of(teaching.hidden, teaching.weight, first, rows),
                          teaching.temperature);
}

/// Gradients by hidden states and by the weight, of as many of both as are wanted, formed chunk by
/// chunk from those by logits.
class LinearGradients {
 public:
  LinearGradients(const at::Tensor& hidden,
                  const at::Tensor& weight,
                  bool wants_hidden,
                  bool wants_weight)
      : all_(hidden), cast_(weight.to(hidden.scalar_type())) {
    if (wants_hidden) hidden_ = torch::empty_like(hidden);
    if (wants_weight) weight_ = torch::zeros_like(weight, torch::kFloat);
  }

  /// by_logits: [rows, vocab_size] fp32, of the rows from `first` on.
  void add(const at::Tensor& by_logits, int64_t first) {
    const int64_t rows = by_logits.size(0);
    const auto grad = by_logits.to(all_.scalar_type());
    if (hidden_.defined()) {
      at::Tensor slice = hidden_.narrow(0, first, rows);
      torch::matmul_out(slice, grad, cast_);
    }
    if (!weight_.defined()) return;
    const auto h = all_.narrow(0, first, rows);
    if (h.scalar_type() == torch::kFloat) {
      weight_.addmm_(grad.t(), h);
    } else {
      weight_.add_(torch::matmul(grad.t(), h));
    }
  }

  const at::Tensor& hidden() const { return hidden_; }  ///< undefined where it is not wanted
  const at::Tensor& weight() const { return weight_; }  ///< the same

 private:
  at::Tensor all_, cast_, hidden_, weight_;
};

struct LinearLoss : Function<LinearLoss> {
  /// `out` receives the parts; `teaching` may be null.
  static at::Tensor forward(AutogradContext* context,
                            const at::Tensor& hidden,
                            const at::Tensor& weight,
                            const at::Tensor& targets,
                            const Teaching* teaching,
                            DistillationLoss* out,
                            bool wants_grad_hidden,
                            bool wants_grad_weight) {
    out->cross_entropy = torch::zeros({}, hidden.options().dtype(torch::kFloat));
    out->divergence = torch::zeros_like(out->cross_entropy);
    LinearGradients gradients(hidden, weight, wants_grad_hidden, wants_grad_weight);
    const int64_t step = chunk_rows(weight.size(0));
    for (int64_t first = 0; first < hidden.size(0); first += step) {
      const int64_t rows = std::min(step, hidden.size(0) - first);
      Chunk chunk(logits_of(hidden, weight, first, rows), targets.narrow(0, first, rows));
      out->cross_entropy += chunk.cross_entropy();
      if (teaching) out->divergence += divergence(chunk, *teaching, first, rows);
      if (!wants_grad_hidden && !wants_grad_weight) continue;
      gradients.add(chunk.gradient(teaching ? teaching->share : 0), first);
    }
    context->save_for_backward({gradients.hidden(), gradients.weight()});
    if (!teaching) return out->cross_entropy.clone();
    const double softness = teaching->temperature * teaching->temperature;
    return out->cross_entropy * (1 - teaching->share) +
           out->divergence * (teaching->share * softness);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto saved = context->get_saved_variables();
    at::Tensor grad_hidden, grad_weight;
    if (saved[0].defined())
      grad_hidden = (saved[0].to(torch::kFloat) * grads[0]).to(saved[0].scalar_type());
    if (saved[1].defined()) grad_weight = saved[1] * grads[0];
    return {grad_hidden, grad_weight, {}, {}, {}, {}, {}};
  }
};

struct LogProbabilities : Function<LogProbabilities> {
  static at::Tensor forward(AutogradContext* context,
                            const at::Tensor& hidden,
                            const at::Tensor& weight,
                            const at::Tensor& targets) {
    auto out = torch::empty({hidden.size(0)}, hidden.options().dtype(torch::kFloat));
    for_each_chunk(hidden, weight, targets, [&](Chunk& chunk, int64_t first, int64_t rows) {
      out.narrow(0, first, rows).copy_(chunk.log_p_of_targets());
    });
    context->save_for_backward({hidden, weight, targets});
    return out.masked_fill_(targets.lt(0), 0);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto saved = context->get_saved_variables();
    LinearGradients gradients(saved[0], saved[1], context->needs_input_grad(0),
                              context->needs_input_grad(1));
    for_each_chunk(saved[0], saved[1], saved[2], [&](Chunk& chunk, int64_t first, int64_t rows) {
      gradients.add(chunk.gradient(0).mul_(grads[0].narrow(0, first, rows).neg().unsqueeze(1)),
                    first);
    });
    return {gradients.hidden(), gradients.weight(), {}};
  }

 private:
  template <class Visit>
  static void for_each_chunk(const at::Tensor& hidden,
                             const at::Tensor& weight,
                             const at::Tensor& targets,
                             const Visit& visit) {
    const int64_t step = chunk_rows(weight.size(0));
    for (int64_t first = 0; first < hidden.size(0); first += step) {
      const int64_t rows = std::min(step, hidden.size(0) - first);
      Chunk chunk(logits_of(hidden, weight, first, rows), targets.narrow(0, first, rows));
      visit(chunk, first, rows);
    }
  }
};

DistillationLoss linear_loss(const at::Tensor& hidden,
                             const at::Tensor& weight,
                             const at::Tensor& targets,
                             const Teaching* teaching) {
  // inside a Function gradients are always off, so it cannot see whether they are wanted
  const bool with_grad = at::GradMode::is_enabled();
  DistillationLoss out;
  out.total =
      LinearLoss::apply(hidden, weight, targets, teaching, &out,
                        with_grad && hidden.requires_grad(), with_grad && weight.requires_grad());
  return out;
}

}  // namespace

at::Tensor linear_cross_entropy(const at::Tensor& hidden,
                                const at::Tensor& weight,
                                const at::Tensor& targets) {
  return linear_loss(hidden, weight, targets, nullptr).total;
}

at::Tensor linear_log_probabilities(const at::Tensor& hidden,
                                    const at::Tensor& weight,
                                    const at::Tensor& targets) {
  return LogProbabilities::apply(hidden, weight, targets);
}

DistillationLoss linear_distillation(const at::Tensor& hidden,
                                     const at::Tensor& weight,
                                     const at::Tensor& targets,
                                     const Teaching& teaching) {
  return linear_loss(hidden, weight, targets, &teaching);
}

TopTokens top_tokens(const at::Tensor& hidden,
                     const at::Tensor& weight,
                     double temperature,
                     int64_t k) {
  std::vector<at::Tensor> ids, log_p;
  const int64_t step = chunk_rows(weight.size(0));
  for (int64_t first = 0; first < hidden.size(0); first += step) {
    const int64_t rows = std::min(step, hidden.size(0) - first);
    const auto logits = logits_of(hidden, weight, first, rows).to(torch::kFloat) / temperature;
    auto [values, indices] = logits.topk(k, -1);
    ids.push_back(indices);
    log_p.push_back((values - logits.logsumexp(-1, /*keepdim=*/true)).to(torch::kHalf));
  }
  return {torch::cat(ids), torch::cat(log_p)};
}

at::Tensor token_losses(const at::Tensor& logits, const at::Tensor& targets) {
  auto log_p = torch::log_softmax(logits, -1, torch::kFloat);
  return log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1).neg();
}

}  // namespace kvsmith
