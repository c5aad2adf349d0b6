#include "inference/generate.h"

#include <algorithm>

#include <torch/types.h>

#include "core/error.h"
#include "core/stopwatch.h"
#include "core/text.h"
#include "inference/continuation.h"

namespace kvsmith {
namespace {

void check_lengths(const std::vector<std::vector<int32_t>>& prompts,
                   const GenerateOptions& options,
                   int64_t longest) {
  if (options.max_new_tokens < 1 || options.max_new_tokens > longest) {
    throw Error(ExitCode::kUsage, {cat(options.max_new_tokens, " new tokens"), "generate",
                                   cat("give 1 to max_position_embeddings, ", longest)});
  }
  for (const auto& ids : prompts) {
    if (ids.empty())
      throw Error(ExitCode::kUsage, {"the prompt is empty", "generate", "give some text"});
    const auto total = static_cast<int64_t>(ids.size()) + options.max_new_tokens;
    if (total > longest) {
      throw Error(ExitCode::kUsage, {cat(ids.size(), " prompt tokens and ", options.max_new_tokens,
                                         " new ones exceed max_position_embeddings ", longest),
                                     "generate", "shorten the prompt or lower --max-new-tokens"});
    }
  }
}

}  // namespace

int64_t known_tokens(const LoadedModel& model) {
  return std::min(model.model->config().vocab_size, tokenizer_of(model).vocab_size());
}

bool ends_text(const LoadedModel& model, const std::vector<int32_t>& end_tokens, int64_t token) {
  return token == model.eos_id || std::ranges::count(model.end_ids, token) > 0 ||
         std::ranges::count(end_tokens, token) > 0;
}

const Tokenizer& tokenizer_of(const LoadedModel& model) {
  if (!model.tokenizer) {
    throw Error(ExitCode::kUsage, {"the checkpoint has no tokenizer", model.path.string(),
                                   "generate needs one; `kvsmith logits` works on token ids"});
  }
  return *model.tokenizer;
}

std::vector<int32_t> text_prompt(const LoadedModel& model, std::string_view text) {
  const Tokenizer& tokenizer = tokenizer_of(model);
  std::vector<int32_t> ids;
  // not the model's bos_id, which config.json may have where texts do not begin with it
  if (tokenizer.bos_id() >= 0) ids.push_back(tokenizer.bos_id());
  tokenizer.encode_to(ids, text);
  return ids;
}

std::vector<Generation> generate(LoadedModel& model,
                                 const std::vector<std::vector<int32_t>>& prompts,
                                 const GenerateOptions& options,
                                 GenerateStats* stats,
                                 const std::function<void(size_t, std::string_view)>& on_text) {
  const int64_t known = known_tokens(model);
  check(options.sampling);
  check_lengths(prompts, options, model.model->config().max_position_embeddings);
  if (std::ranges::count(options.stop, "") > 0)
    throw Error(ExitCode::kUsage, {"an empty stop text", "--stop", "give some text"});
  const torch::InferenceMode inference;
  const auto batch = static_cast<int64_t>(prompts.size());
  if (batch == 0) return {};
  const auto device = model.model->device();
  GenerateStats counted;

  std::vector<Span> spans;
  int64_t longest = 0;
  for (const auto& prompt : prompts) {
    spans.push_back({0, static_cast<int64_t>(prompt.size())});
    longest = std::max(longest, spans.back().count);
    counted.prompt_tokens += spans.back().count;
  }
  auto tokens = torch::zeros({batch, longest}, torch::kLong);
  for (int64_t b = 0; b < batch; ++b) {
    const auto& prompt = prompts[static_cast<size_t>(b)];
    for (size_t i = 0; i < prompt.size(); ++i) tokens[b][static_cast<int64_t>(i)] = prompt[i];
  }
  const auto place = [&] {
    const bool alike =
        std::ranges::all_of(spans, [&](const Span& span) { return span == spans[0]; });
    return alike ? Positions::range(spans[0].first, spans[0].count, device)
                 : Positions::ragged(spans, device);
  };

  const CacheOptions allocation{.batch = batch, .initial_rows = longest};
  auto cache = options.cache
                   ? CachePlan(*options.cache, model.model->config(), model.model->compute_type(),
                               longest + options.max_new_tokens)
                         .make(*model.model, allocation)
                   : model.model->make_cache(allocation);
  std::vector<Continuation> texts(prompts.size(), Continuation(model, options));
  Stopwatch watch;
  auto hidden = model.model->step(tokens.to(device), place(), cache);
  std::vector<at::Tensor> last;
  for (int64_t b = 0; b < batch; ++b)
    last.push_back(hidden[b][spans[static_cast<size_t>(b)].count - 1]);
  auto logits = model.model->logits(torch::stack(last)).cpu();
  counted.prefill_seconds = watch.seconds();

  watch.restart();
  while (true) {
    auto next = torch::zeros({batch, 1}, torch::kLong);
    bool any = false;
    for (int64_t b = 0; b < batch; ++b) {
      auto& text = texts[static_cast<size_t>(b)];
      auto& span = spans[static_cast<size_t>(b)];
      span = {span.end(), 0};
      if (text.is_over()) continue;
      const int64_t token = sample(logits[b].narrow(0, 0, known), options.sampling, b, span.first);
      if (const auto fresh = text.take(token); on_text && !fresh.empty())
        on_text(static_cast<size_t>(b), fresh);
      ++counted.new_tokens;
      if (text.is_over()) continue;
      next[b][0] = token;
      span.count = 1;
      any = true;
    }
    if (!any) break;
    logits =
        model.model->logits(model.model->step(next.to(device), place(), cache).select(1, 0)).cpu();
  }
  counted.decode_seconds = watch.seconds();
  counted.cache_bytes = cache.bytes_used();
  counted.cache_bytes_reserved = cache.bytes_reserved();
  if (stats) *stats = counted;
  std::vector<Generation> out;
  for (const auto& text : texts) out.push_back(text.result());
  return out;
}

}  // namespace kvsmith
