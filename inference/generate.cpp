#include "inference/generate.h"

#include <algorithm>
#include <chrono>

#include <torch/types.h>

#include "core/error.h"
#include "core/text.h"
#include "data/utf8.h"

namespace kvsmith {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Bytes at the end of `text` that may be the beginning of a character, or of a stop text.
size_t unfinished(std::string_view text, const std::vector<std::string>& stops) {
  size_t held = 0;
  for (size_t back = 1; back <= std::min<size_t>(4, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xc0) == 0x80) continue;
    const size_t length = byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
    if (length > back) held = back;
    break;
  }
  for (const auto& stop : stops) {
    for (size_t n = std::min(stop.size(), text.size() + 1) - 1; n > held; --n) {
      if (text.ends_with(std::string_view(stop).substr(0, n))) held = n;
    }
  }
  return held;
}

/// What the model wrote, with characters that it left incomplete replaced by U+FFFD.
std::string readable(std::string_view bytes) {
  uint64_t replaced = 0;
  return replace_invalid_utf8(bytes, replaced);
}

/// One sequence of the batch while it grows; its text holds raw bytes until it is done.
struct Sequence {
  Generation result;
  size_t shown = 0;
  bool done = false;
};

void finish(Sequence& sequence, const char* reason) {
  sequence.done = true;
  sequence.result.finish = reason;
}

/// Takes in one sampled token.
void extend(Sequence& sequence,
            int64_t token,
            const LoadedModel& model,
            const GenerateOptions& options) {
  if (token == model.eos_id || std::ranges::count(model.end_ids, token) > 0 ||
      std::ranges::count(options.end_tokens, token) > 0)
    return finish(sequence, "eos");
  auto& result = sequence.result;
  result.tokens.push_back(static_cast<int32_t>(token));
  result.text += model.tokenizer->surface(static_cast<int32_t>(token));
  for (const auto& stop : options.stop) {
    const size_t at = result.text.find(stop);
    if (at == std::string::npos) continue;
    result.text.resize(at);
    return finish(sequence, "stop");
  }
  if (static_cast<int64_t>(result.tokens.size()) >= options.max_new_tokens) {
    finish(sequence, "length");
  }
}

/// Hands on what has become whole characters since the last time.
void show(Sequence& sequence,
          size_t index,
          const GenerateOptions& options,
          const std::function<void(size_t, std::string_view)>& on_text) {
  const std::string& text = sequence.result.text;
  const size_t held = sequence.done ? 0 : unfinished(text, options.stop);
  if (!on_text || text.size() <= sequence.shown + held) return;
  const size_t fresh = text.size() - held - sequence.shown;
  on_text(index, readable(std::string_view(text).substr(sequence.shown, fresh)));
  sequence.shown += fresh;
}

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
  const Tokenizer& tokenizer = tokenizer_of(model);
  check(options.sampling);
  check_lengths(prompts, options, model.model->config().max_position_embeddings);
  if (std::ranges::count(options.stop, "") > 0)
    throw Error(ExitCode::kUsage, {"an empty stop text", "--stop", "give some text"});
  const torch::InferenceMode inference;
  const auto batch = static_cast<int64_t>(prompts.size());
  if (batch == 0) return {};
  const auto device = model.model->device();
  // a vocabulary rounded up for speed has rows that stand for no token
  const int64_t known = std::min(model.model->config().vocab_size, tokenizer.vocab_size());
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
  std::vector<Sequence> sequences(prompts.size());
  auto start = Clock::now();
  auto hidden = model.model->step(tokens.to(device), place(), cache);
  std::vector<at::Tensor> last;
  for (int64_t b = 0; b < batch; ++b)
    last.push_back(hidden[b][spans[static_cast<size_t>(b)].count - 1]);
  auto logits = model.model->logits(torch::stack(last)).cpu();
  counted.prefill_seconds = seconds_since(start);

  start = Clock::now();
  while (true) {
    auto next = torch::zeros({batch, 1}, torch::kLong);
    bool any = false;
    for (int64_t b = 0; b < batch; ++b) {
      auto& sequence = sequences[static_cast<size_t>(b)];
      auto& span = spans[static_cast<size_t>(b)];
      span = {span.end(), 0};
      if (sequence.done) continue;
      const int64_t token = sample(logits[b].narrow(0, 0, known), options.sampling, b, span.first);
      extend(sequence, token, model, options);
      show(sequence, static_cast<size_t>(b), options, on_text);
      ++counted.new_tokens;
      if (sequence.done) continue;
      next[b][0] = token;
      span.count = 1;
      any = true;
    }
    if (!any) break;
    logits =
        model.model->logits(model.model->step(next.to(device), place(), cache).select(1, 0)).cpu();
  }
  counted.decode_seconds = seconds_since(start);
  counted.cache_bytes = cache.bytes_used();
  counted.cache_bytes_reserved = cache.bytes_reserved();
  if (stats) *stats = counted;
  std::vector<Generation> out;
  for (auto& sequence : sequences) {
    sequence.result.text = readable(sequence.result.text);
    out.push_back(std::move(sequence.result));
  }
  return out;
}

}  // namespace kvsmith
