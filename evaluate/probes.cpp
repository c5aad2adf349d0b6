#include "evaluate/probes.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <utility>

#include <torch/types.h>

#include "core/error.h"
#include "core/text.h"
#include "ops/losses.h"

namespace kvsmith {
namespace {

/// What a batch of samples was scored at, from the first answer token on: [batch, seq] each.
struct Scored {
  int64_t from = 0;
  at::Tensor losses, right;
};

Scored read_batch(std::span<const ProbeSample> samples, const OpenReader& open) {
  std::vector<at::Tensor> rows;
  for (const ProbeSample& sample : samples) rows.push_back(torch::tensor(sample.tokens));
  const auto tokens = torch::stack(rows);
  const int64_t length = tokens.size(1);
  Scored out{.from = std::ranges::min(samples, {}, &ProbeSample::answer_from).answer_from(),
             .losses = {},
             .right = {}};
  std::vector<at::Tensor> losses, right;
  const Reader read = open(tokens.size(0), length);
  auto logits = read(tokens.narrow(1, 0, out.from));
  for (int64_t t = out.from;; ++t) {
    const auto target = tokens.select(1, t).to(logits.device());
    losses.push_back(token_losses(logits, target));
    right.push_back(logits.argmax(1).eq(target));
    if (t + 1 == length) break;
    logits = read(tokens.narrow(1, t, 1));
  }
  out.losses = torch::stack(losses, 1).to(torch::kCPU, torch::kDouble);
  out.right = torch::stack(right, 1).to(torch::kCPU, torch::kLong);
  return out;
}

}  // namespace

OpenReader through_cache(DecoderImpl& model, MakeCache make_cache, bool prefill) {
  return [&model, make_cache = std::move(make_cache), prefill](int64_t batch, int64_t length) {
    // a std::function has to be copyable, which a cache is not
    auto cache = std::make_shared<KvCache>(make_cache({.batch = batch, .initial_rows = length}));
    return [&model, cache, prefill, position = int64_t{0}](const at::Tensor& next) mutable {
      at::Tensor hidden;
      for (const auto& step : next.to(model.device()).split(prefill ? next.size(1) : 1, 1)) {
        const auto positions = Positions::range(position, step.size(1), model.device());
        hidden = model.step(step, positions, *cache);
        position += step.size(1);
      }
      return model.logits(hidden.select(1, -1));
    };
  };
}

ProbeScore score_answers(const std::vector<ProbeSample>& samples,
                         const OpenReader& open,
                         int64_t batch) {
  const torch::InferenceMode inference;
  double nll = 0;
  int64_t tokens = 0, right = 0, answers = 0, exact = 0;
  const std::span all(samples);
  for (size_t first = 0; first < all.size(); first += static_cast<size_t>(batch)) {
    const auto part = all.subspan(first, std::min(static_cast<size_t>(batch), all.size() - first));
    const Scored scored = read_batch(part, open);
    for (size_t b = 0; b < part.size(); ++b) {
      for (const TokenSpan& answer : part[b].answers) {
        const auto of_answer = [&](const at::Tensor& all_tokens) {
          return all_tokens[static_cast<int64_t>(b)]
              .narrow(0, answer.first - scored.from, answer.count)
              .sum();
        };
        const auto hits = of_answer(scored.right).item<int64_t>();
        nll += of_answer(scored.losses).item<double>();
        tokens += answer.count;
        right += hits;
        ++answers;
        if (hits == answer.count) ++exact;
      }
    }
  }
  const auto share = [](auto part, int64_t of) {
    return static_cast<double>(part) / static_cast<double>(of);
  };
  return {share(nll, tokens), share(exact, answers), share(right, tokens)};
}

std::vector<ProbePoint> run_probe(const ProbeTask& task,
                                  const ProbeText& text,
                                  const ProbeOptions& options,
                                  const OpenReader& open) {
  const std::string where = cat("probe ", task.name);
  if (options.samples < 1 || options.batch < 1)
    throw Error(ExitCode::kUsage, {"no samples", where, "give at least 1, and a batch of 1"});
  std::vector<ProbePoint> points;
  for (const int64_t length : options.lengths) {
    for (const double depth : options.depths) {
      std::vector<ProbeSample> samples;
      for (int64_t i = 0; i < options.samples; ++i)
        samples.push_back(
            make_sample(task, text, options, length, depth, static_cast<uint64_t>(i)));
      ProbePoint point{.task = std::string(task.name),
                       .length = length,
                       .depth = depth,
                       .distance = samples.front().distance,
                       .samples = options.samples,
                       .score = score_answers(samples, open, options.batch)};
      for (ProbeSample& sample : samples) sample.tokens.swap(sample.control);
      point.nll_without = score_answers(samples, open, options.batch).nll;
      if (!std::isfinite(point.gain())) {
        throw Error(ExitCode::kNumerical,
                    {"the loss is not finite", where,
                     "the checkpoint may be damaged, or bf16 too coarse for it"});
      }
      points.push_back(std::move(point));
    }
  }
  return points;
}

nlohmann::ordered_json probe_json(const std::vector<ProbePoint>& points) {
  auto json = nlohmann::ordered_json::array();
  for (const ProbePoint& point : points) {
    json.push_back({{"task", point.task},
                    {"length", point.length},
                    {"depth", point.depth},
                    {"distance", point.distance},
                    {"samples", point.samples},
                    {"nll", point.score.nll},
                    {"nll_without", point.nll_without},
                    {"gain", point.gain()},
                    {"exact_match", point.score.exact_match},
                    {"token_accuracy", point.score.token_accuracy}});
  }
  return json;
}

}  // namespace kvsmith
