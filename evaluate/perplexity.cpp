#include "evaluate/perplexity.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numbers>
#include <utility>

#include <torch/types.h>

#include "cache/cache_options.h"
#include "core/error.h"
#include "core/stopwatch.h"
#include "core/text.h"
#include "evaluate/decoding.h"
#include "evaluate/unigram.h"
#include "evaluate/windows.h"
#include "ops/losses.h"

namespace kvsmith {
namespace {

constexpr int64_t kLogitRows = 512;  ///< alive at once
constexpr int64_t kSampleTokens = 128;

/// Windows of one batch, padded at the end to the longest.
struct Padded {
  at::Tensor inputs;                      ///< [batch, seq]
  at::Tensor targets;                     ///< [batch, seq]; -1 where nothing is scored
  std::vector<std::vector<int32_t>> ids;  ///< of each window, with the token after its last input
  /// Of each id: 1 where the corpus has it learnt, which is what is scored.
  std::vector<std::vector<uint8_t>> learnt;
};

Padded padded(const CorpusSplit& split, const Window* windows, int64_t count) {
  Padded out;
  const int64_t seq = windows[0].length;  // sorted: the first is the longest
  out.inputs = torch::zeros({count, seq}, torch::kLong);
  out.targets = torch::full({count, seq}, -1, torch::kLong);
  for (int64_t b = 0; b < count; ++b) {
    const Window& window = windows[b];
    auto& ids = out.ids.emplace_back(static_cast<size_t>(window.length) + 1);
    auto& learnt = out.learnt.emplace_back(ids.size());
    split.read(window.first, ids);
    split.read_learnt(window.first, learnt);
    const auto all = torch::tensor(ids, torch::kLong);
    const auto wanted = all.masked_fill(torch::tensor(learnt, torch::kByte).eq(0), -1);
    out.inputs[b].narrow(0, 0, window.length).copy_(all.narrow(0, 0, window.length));
    out.targets[b]
        .narrow(0, window.scored_from, window.scored())
        .copy_(wanted.narrow(0, window.scored_from + 1, window.scored()));
  }
  return out;
}

/// fp64 sum of losses where there is a target. logits: [..., vocab]; targets: [...].
double nll_of(const at::Tensor& logits, const at::Tensor& targets) {
  const auto losses = token_losses(logits, targets.clamp_min(0));
  return losses.masked_fill(targets.lt(0), 0).to(torch::kDouble).sum().item<double>();
}

/// Scores one batch token by token; measures the cache at its end.
double decode_batch(DecoderImpl& model, const Padded& batch, Evaluation& result) {
  const int64_t count = batch.inputs.size(0), seq = batch.inputs.size(1);
  const auto inputs = batch.inputs.to(model.device()), targets = batch.targets.to(model.device());
  auto cache = model.make_cache({.batch = count, .initial_rows = seq});
  auto sum = torch::zeros({}, torch::dtype(torch::kDouble).device(model.device()));
  decode(model, inputs, cache, [&](int64_t t, const at::Tensor& logits) {
    const auto target = targets.select(1, t);
    const auto losses = token_losses(logits, target.clamp_min(0));
    sum += losses.masked_fill(target.lt(0), 0).to(torch::kDouble).sum();
    result.cache_bytes_peak = std::max(result.cache_bytes_peak, cache.bytes_reserved() / count);
  });
  const auto bytes = measured(cache, model, count, seq);
  if (seq > result.cache.tokens) result.cache = bytes;
  return sum.item<double>();
}

/// Scores one batch in a single pass; logits exist for a slice of tokens at a time.
double parallel_batch(DecoderImpl& model, const Padded& batch) {
  const auto inputs = batch.inputs.to(model.device());
  auto cache = model.make_transient();
  const auto hidden =
      model.step(inputs, Positions::range(0, inputs.size(1), model.device()), cache).flatten(0, 1);
  const auto targets = batch.targets.to(model.device()).flatten();
  double sum = 0;
  for (int64_t first = 0; first < hidden.size(0); first += kLogitRows) {
    const int64_t rows = std::min(kLogitRows, hidden.size(0) - first);
    sum += nll_of(model.logits(hidden.narrow(0, first, rows)), targets.narrow(0, first, rows));
  }
  return sum;
}

/// The same with other numbers of passes.
void score_passes(DecoderImpl& model, const Padded& batch, Evaluation& result) {
  for (auto& passes : result.passes) {
    const PassesFor now(model, passes.forward_passes, model.config().backward_passes);
    passes.nll += parallel_batch(model, batch);
  }
}

/// Largest difference between logits of the two protocols on the first tokens of a window.
double protocol_difference(DecoderImpl& model, const at::Tensor& window) {
  const auto tokens =
      window.narrow(1, 0, std::min(kSampleTokens, window.size(1))).to(model.device());
  const auto parallel = model.forward(tokens);
  auto cache = model.make_cache({.batch = 1});
  double worst = 0;
  decode(model, tokens, cache, [&](int64_t t, const at::Tensor& logits) {
    worst = std::max(worst, (logits - parallel.select(1, t)).abs().max().item<double>());
  });
  return worst;
}

/// The points of all probes that are asked for, with symbols and filler of the scored split.
std::vector<ProbePoint> run_probes(DecoderImpl& model,
                                   const Corpus& corpus,
                                   const Evaluation& result) {
  const EvaluateOptions& options = result.options;
  if (options.probes.empty()) return {};
  const auto text = ProbeText::of_corpus(corpus, options.split);
  const auto make_cache = [&](const CacheOptions& cache) {
    return result.method ? result.method->plan().make(model, cache) : model.make_cache(cache);
  };
  const auto open = through_cache(model, make_cache, options.probe.prefill);
  std::vector<ProbePoint> points;
  for (const std::string& name : options.probes)
    std::ranges::move(run_probe(probe_task(name), text, options.probe, open),
                      std::back_inserter(points));
  return points;
}

/// Bytes of text that the scored tokens of a window stand for, wherever windows are cut.
int64_t text_bytes(const Tokenizer& tokenizer,
                   const Window& window,
                   const std::vector<int32_t>& ids,
                   const std::vector<uint8_t>& learnt) {
  const auto from = static_cast<size_t>(window.scored_from) + 1;
  int64_t bytes = 0;
  for (size_t i = from; i < ids.size(); ++i) {
    if (learnt[i] != 0) bytes += static_cast<int64_t>(tokenizer.surface(ids[i]).size());
  }
  // the space that some models put before a text is none of its bytes
  const bool begins = window.opens_document && from == 1 && ids.size() > 1 && learnt[1] != 0;
  if (begins && tokenizer.adds_space() && tokenizer.surface(ids[1]).starts_with(' ')) --bytes;
  return bytes;
}

/// Scored by MethodScore.
bool is_in_steps(const EvaluateOptions& options) {
  return options.protocol != Protocol::kParallel &&
         (options.cache || options.protocol != Protocol::kDecode);
}

double nll_of_batch(DecoderImpl& model, const Padded& batch, Evaluation& result) {
  const EvaluateOptions& options = result.options;
  if (options.protocol == Protocol::kParallel) return parallel_batch(model, batch);
  if (!result.method) return decode_batch(model, batch, result);
  const auto inputs = batch.inputs.to(model.device()), targets = batch.targets.to(model.device());
  const bool replays = options.protocol == Protocol::kReplay;
  const auto steps = step_lengths(
      inputs.size(1), options.protocol == Protocol::kPrefillContinue ? options.prefill : 0,
      options.protocol == Protocol::kChunked ? options.chunk : 1);
  const double streamed = result.method->read(model, inputs, targets, steps, replays);
  if (!replays) return streamed;
  const double replayed = result.method->replay(model, inputs, targets);
  result.replay_vs_decode =
      std::max(result.replay_vs_decode, std::abs(replayed - streamed) / std::abs(streamed));
  return replayed;
}

/// Refuses what a protocol cannot show of a method.
void check_method(const CachePlan& plan, const KvGraph& graph, const EvaluateOptions& options) {
  const CacheConfig& config = plan.config();
  const auto refuse = [&](const std::string& what, const std::string& remedy) {
    throw Error(ExitCode::kConfig,
                {cat("protocol ", to_string(options.protocol), what), method_name(plan), remedy});
  };
  const RetentionKind* policy = policy_of(config.retention);
  const bool once = policy && policy->after_prompt_only;
  if (once && options.protocol != Protocol::kPrefillContinue) {
    refuse(" with a policy that drops rows of a prompt alone, once",
           "use --protocol prefill_continue");
  }
  if (once && options.prefill <= plan.budget()) {
    refuse(cat(" behind a prompt of ", options.prefill, " tokens, all of which stay"),
           cat("give --prefill more than ", plan.budget(), " tokens, or a smaller budget"));
  }
  if (once && !options.probes.empty() && !options.probe.prefill) {
    refuse(" with probes that are read token by token, so that nothing is dropped",
           "leave --probe-stepwise out");
  }
  if (options.protocol == Protocol::kReplay && policy && policy->merges_values)
    refuse(" of values that are merged", "use --protocol decode");
  if (options.protocol == Protocol::kReplay && plan.depends_on_text())
    refuse(" of rows that change where they are", "use --protocol decode");
  const bool as_computed = config.codec_k == "model" && config.codec_v == "model";
  if (options.protocol == Protocol::kReplay && !(as_computed && config.positions == "original")) {
    refuse(" lets tokens see the rows that a policy kept, as computed and where they stood",
           "use --protocol decode for codecs and in-cache positions");
  }
  if (options.protocol == Protocol::kReplay && graph.is_cyclic()) {
    refuse(" of layers that read ahead (LCKV), which one pass does not compute",
           "use --protocol decode");
  }
  if (options.recall && options.cache)
    refuse(" with --recall, which reads through the model's own cache", "use --probe copy");
}

void check(EvaluateOptions& options, const LoadedModel& model, const Corpus& corpus) {
  const int64_t longest = model.model->config().max_position_embeddings;
  if (options.context == 0) options.context = longest;
  if (options.stride == 0) options.stride = options.context;
  if (options.probe.lengths.empty()) options.probe.lengths = {options.context};
  const auto refuse = [](const std::string& what, const std::string& remedy) {
    throw Error(ExitCode::kUsage, {what, "evaluate", remedy});
  };
  if (options.context < 1)
    refuse(cat("context ", options.context),
           "give at least 1 token, or 0 for max_position_embeddings");
  if (options.stride < 1 || options.stride > options.context) {
    refuse(cat("stride ", options.stride),
           cat("give 1 to the context, ", options.context, ", or 0 for no overlap"));
  }
  if (!options.passes.empty() && !model.model->graph().is_cyclic()) {
    refuse("passes are for layers that read ahead (LCKV), and this model has none",
           "leave --passes out");
  }
  if (options.cache && options.protocol == Protocol::kParallel) {
    refuse("a pass over whole windows has no cache to do anything to",
           "use --protocol decode, prefill_continue, chunked or replay");
  }
  if (options.protocol == Protocol::kPrefillContinue) {
    if (options.prefill == 0) options.prefill = options.context / 2;
    if (options.prefill < 1 || options.prefill >= options.context)
      refuse(cat("prefill ", options.prefill), cat("give 1 to ", options.context - 1));
    if (options.stride != options.context)
      refuse("windows that overlap would be continued twice", "leave --stride out");
  }
  if (options.chunk < 1) refuse(cat("chunk ", options.chunk), "give at least 1 token");
  if (options.batch < 1) refuse(cat("batch ", options.batch), "give at least 1 window");
  if (options.max_tokens < 0)
    refuse(cat("max_tokens ", options.max_tokens), "give at least 1 token, or 0 for all");
  check_fits(corpus, model);
}

}  // namespace

void check_fits(const Corpus& corpus, const LoadedModel& model) {
  const auto& info = corpus.info();
  if (model.tokenizer && model.tokenizer->sha256() != info.tokenizer_sha256 &&
      !info.tokenizer_sha256.empty()) {
    throw Error(ExitCode::kConfig,
                {cat("the corpus was made with tokenizer ", info.tokenizer_sha256.substr(0, 12),
                     ", the model has ", model.tokenizer->sha256().substr(0, 12)),
                 model.path.string(), "build the corpus with the model's tokenizer.model"});
  }
  if (info.vocab_size > model.model->config().vocab_size) {
    throw Error(ExitCode::kConfig,
                {cat("the corpus has ", info.vocab_size, " token ids, the model ",
                     model.model->config().vocab_size),
                 model.path.string(), "build the corpus with the model's tokenizer.model"});
  }
}

Evaluation evaluate(LoadedModel& loaded,
                    const Corpus& corpus,
                    EvaluateOptions options,
                    const std::function<void(int64_t, int64_t)>& on_progress) {
  const torch::InferenceMode inference;
  check(options, loaded, corpus);
  DecoderImpl& model = *loaded.model;
  const auto split = corpus.split(options.split);
  const bool continues = options.protocol == Protocol::kPrefillContinue;
  auto windows = windows_of(*split, options.context, options.stride, options.max_tokens,
                            continues ? options.prefill : 0);
  if (windows.empty()) {
    throw Error(ExitCode::kBadData,
                {continues ? cat("no document goes on after ", options.prefill, " tokens")
                           : std::string("no document has two tokens"),
                 "split " + options.split, continues ? "lower --prefill" : ""});
  }
  Evaluation result;
  result.options = options;
  result.documents = windows.back().document + 1;
  if (is_in_steps(options)) {
    result.method.emplace(CachePlan(options.cache.value_or(CacheConfig{}), model.config(),
                                    model.compute_type(), options.context));
  }
  if (result.method) check_method(result.method->plan(), model.graph(), options);
  const RecallOptions recall{.longest =
                                 std::min(options.context, model.config().max_position_embeddings)};
  if (options.recall) check_recall(*split, recall);
  result.probes = run_probes(model, corpus, result);
  for (const int64_t forward : options.passes) result.passes.push_back({forward, 0});
  int64_t total = 0;
  for (const Window& window : windows) total += window.scored();
  std::ranges::stable_sort(windows, std::greater{}, &Window::length);

  std::vector<double> unigram;
  if (options.unigram) unigram = unigram_losses(*corpus.split("train"), corpus.info().vocab_size);
  double unigram_nll = 0;
  const bool counts_bytes = loaded.tokenizer && !corpus.info().tokenizer_sha256.empty();
  int64_t bytes = 0, read = 0;
  const Stopwatch watch;
  for (size_t first = 0; first < windows.size(); first += static_cast<size_t>(options.batch)) {
    const auto count =
        std::min<int64_t>(options.batch, static_cast<int64_t>(windows.size() - first));
    const Padded batch = padded(*split, &windows[first], count);
    if (first == 0)
      result.decode_vs_parallel = protocol_difference(model, batch.inputs.narrow(0, 0, 1));
    result.nll += nll_of_batch(model, batch, result);
    score_passes(model, batch, result);
    for (int64_t b = 0; b < count; ++b) {
      const Window& window = windows[first + static_cast<size_t>(b)];
      const auto& ids = batch.ids[static_cast<size_t>(b)];
      const auto& learnt = batch.learnt[static_cast<size_t>(b)];
      if (counts_bytes) bytes += text_bytes(*loaded.tokenizer, window, ids, learnt);
      for (size_t i = static_cast<size_t>(window.scored_from) + 1; i < ids.size(); ++i) {
        if (learnt[i] == 0) continue;
        ++result.tokens;
        if (!unigram.empty()) unigram_nll += unigram[static_cast<size_t>(ids[i])];
      }
      read += window.scored();
    }
    if (on_progress) on_progress(read, total);
  }
  if (result.tokens == 0) {
    throw Error(ExitCode::kBadData, {"the corpus marks none of these tokens as learnt",
                                     "split " + options.split, "score more tokens"});
  }
  result.seconds = watch.seconds();
  if (!std::isfinite(result.nll)) {
    throw Error(ExitCode::kNumerical, {"the loss is not finite", loaded.path.string(),
                                       "the checkpoint may be damaged, or bf16 too coarse for it"});
  }
  if (options.protocol == Protocol::kParallel || result.method) {
    result.cache = measure_cache(model, windows.front().length);
    result.cache_bytes_peak = result.cache.bytes_reserved;
  }
  result.cache_lengths = options.cache_lengths;
  if (options.measures_lengths && !result.cache_lengths)
    result.cache_lengths = measure_lengths(model, options.context);
  if (bytes > 0) result.bits_per_byte = result.nll / std::numbers::ln2 / static_cast<double>(bytes);
  if (!unigram.empty()) result.unigram_nll = unigram_nll;
  if (options.recall) result.recall = recall_curve(model, *split, recall);
  return result;
}

}  // namespace kvsmith
