#include "serve/engine.h"

#include <algorithm>
#include <exception>
#include <map>
#include <utility>

#include <torch/types.h>

#include "core/error.h"
#include "core/text.h"
#include "inference/generate.h"
#include "serve/joint_step.h"
#include "serve/token_scores.h"

namespace kvsmith {
namespace {

constexpr int64_t kGrowthRows = 64;  // storage is at most so many rows ahead of its text

ReplyPart last_part(Finish finish, Failure failure = {}) {
  ReplyPart part;
  part.finish = finish;
  part.failure = std::move(failure);
  return part;
}

const char* outcome_name(Finish finish) {
  switch (finish) {
    case Finish::kNone:
      break;
    case Finish::kStop:
      return "stop";
    case Finish::kLength:
      return "length";
    case Finish::kCancelled:
      return "cancelled";
    case Finish::kRefused:
      return "refused";
    case Finish::kFailed:
      break;
  }
  return "failed";
}

Failure shutting_down() { return {503, "the server is shutting down", "shutting_down"}; }

/// Runs `work`; what it throws becomes a failure of those that it works on, not of the server.
template <class Work>
std::optional<Failure> attempted(const Work& work) {
  try {
    work();
    return {};
  } catch (const Error& error) {
    return Failure{500, error.what(),
                   error.code() == ExitCode::kNumerical ? "not_a_number" : "internal_error"};
  } catch (const std::exception& error) {
    const std::string_view what = error.what();
    return Failure{500, printable(what.substr(0, what.find('\n'))), "internal_error"};
  }
}

}  // namespace

Engine::Engine(LoadedModel& model, const EngineOptions& options, std::vector<LoadedModel> adapters)
    : model_(model),
      adapters_(std::move(adapters)),
      options_(options),
      plan_(options.cache,
            model.model->config(),
            model.model->compute_type(),
            model.model->config().max_position_embeddings),
      budget_(options.cache_budget),
      prefixes_(model.model->graph(), options.cache, budget_) {
  // what cannot be made is found now, by a plan for each: one asks but once whose weights they are
  const auto try_out = [](const LoadedModel& one, const CachePlan& plan) {
    tokenizer_of(one);
    plan.make(*one.model, {.batch = 1});
  };
  for (const auto& adapter : adapters_) try_out(adapter, CachePlan(plan_));
  try_out(model, plan_);
  publish();
  thread_ = std::thread([this] { run(); });
}

Engine::~Engine() { stop(std::chrono::milliseconds(0)); }

std::optional<Failure> Engine::impossible(const TextRequest& request) const {
  const auto invalid = [](const std::string& message, const std::string& code = "invalid_value") {
    return Failure{400, message, code};
  };
  const auto& config = model_.model->config();
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  if (prompt == 0) return invalid("the prompt has no tokens");
  for (const int32_t id : request.prompt)
    if (id < 0 || id >= config.vocab_size)
      return invalid(cat("token ", id, " in a vocabulary of ", config.vocab_size));
  if (request.max_tokens < (request.scores_prompt ? 0 : 1))
    return invalid(cat(request.max_tokens, " new tokens; ask for 1 or more"));
  if (prompt + request.max_tokens > config.max_position_embeddings)
    return invalid(cat(prompt, " prompt tokens and ", request.max_tokens,
                       " new ones exceed the context of ", config.max_position_embeddings),
                   "context_length_exceeded");
  if (std::ranges::count(request.stop, "") > 0) return invalid("an empty stop text");
  try {
    check(request.sampling);
  } catch (const Error& error) {
    return invalid(error.what());
  }
  return {};
}

std::optional<Failure> Engine::no_room(int64_t bytes, const std::string& client) {
  if (!budget_.could_ever_fit(bytes)) {
    return Failure{400,
                   cat("the text may need ", bytes, " bytes of cache, and the server has ",
                       budget_.bytes(), " for all; shorten the prompt or lower max_tokens"),
                   "cache_budget_exceeded"};
  }
  if (is_stopping_) return shutting_down();
  if (static_cast<int64_t>(queue_.size()) < options_.max_queued) return {};
  Failure full{429, cat(queue_.size(), " texts are waiting; try later"), "queue_full"};
  if (queue_.size() == 0 || queue_.longest() <= queue_.size_of(client) + 1) return full;
  refuse(*queue_.take_newest_of_longest().reply, std::move(full));
  return {};
}

void Engine::refuse(Reply& reply, Failure failure) {
  metrics_.count_outcome(outcome_name(Finish::kRefused));
  reply.push(last_part(Finish::kRefused, std::move(failure)));
}

std::shared_ptr<Reply> Engine::submit(TextRequest request) {
  auto reply = std::make_shared<Reply>();
  auto failure = impossible(request);
  int64_t bytes = 0;
  if (!failure) {
    const auto prompt = static_cast<int64_t>(request.prompt.size());
    if (request.takes_what_fits)
      request.max_tokens = fitting_tokens(plan_, prompt, request.max_tokens, options_.cache_budget);
    bytes = most_bytes(plan_, prompt, request.max_tokens);
    const std::scoped_lock lock(mutex_);
    const auto client = request.client;
    failure = no_room(bytes, client);
    if (!failure) {
      queue_.push(client, {std::move(request), reply, bytes, Clock::now()});
      has_work_.notify_one();
      return reply;
    }
  }
  refuse(*reply, std::move(*failure));
  return reply;
}

bool Engine::is_accepting() const {
  const std::scoped_lock lock(mutex_);
  return !is_stopping_;
}

void Engine::stop(std::chrono::milliseconds grace) {
  {
    const std::scoped_lock lock(mutex_);
    if (!is_stopping_) deadline_ = Clock::now() + grace;
    is_stopping_ = true;
    has_work_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

void Engine::run() {
  const torch::InferenceMode inference;
  while (wait_for_work()) {
    drop_cancelled();
    admit();
    prefill();
    decode();
    std::erase_if(running_, [](const Sequence& sequence) { return sequence.is_over; });
    publish();
  }
}

bool Engine::wait_for_work() {
  std::unique_lock lock(mutex_);
  has_work_.wait(lock, [&] { return is_stopping_ || !queue_.empty() || !running_.empty(); });
  if (!is_stopping_) return true;
  while (!queue_.empty()) refuse(*queue_.take().reply, shutting_down());
  if (Clock::now() >= deadline_)
    for (auto& sequence : running_) fail(sequence, Finish::kFailed, shutting_down());
  std::erase_if(running_, [](const Sequence& sequence) { return sequence.is_over; });
  return !running_.empty();
}

void Engine::drop_cancelled() {
  for (auto& sequence : running_)
    if (sequence.from.reply->is_cancelled()) fail(sequence, Finish::kCancelled, {});
  std::erase_if(running_, [](const Sequence& sequence) { return sequence.is_over; });
  const std::scoped_lock lock(mutex_);
  queue_.erase_if([&](const Waiting& waiting) {
    if (!waiting.reply->is_cancelled()) return false;
    waiting.reply->push(last_part(Finish::kCancelled));
    metrics_.count_outcome(outcome_name(Finish::kCancelled));
    return true;
  });
}

std::optional<Engine::Waiting> Engine::next_admitted() {
  const std::scoped_lock lock(mutex_);
  const bool has_place = static_cast<int64_t>(running_.size()) < options_.max_sequences;
  // the next waits for room, and all others behind it: no stream of small ones can starve it
  if (queue_.empty() || !has_place || !prefixes_.can_make_room(queue_.front().bytes)) return {};
  return queue_.take();
}

void Engine::admit() {
  while (auto waiting = next_admitted()) {
    const auto reply = waiting->reply;
    const auto failure = attempted([&] { running_.push_back(begun(std::move(*waiting))); });
    if (!failure) continue;
    metrics_.count_outcome(outcome_name(Finish::kFailed));
    reply->push(last_part(Finish::kFailed, *failure));
  }
}

Engine::Sequence Engine::begun(Waiting waiting) {
  const auto& request = waiting.request;
  std::optional<PrefixStore::Start> start;
  if (!request.scores_prompt)
    start = prefixes_.start_of(request.prompt, waiting.bytes, request.model);
  prefixes_.make_room(waiting.bytes);
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  auto cache = start ? std::move(start->cache)
                     : plan_.make(*model_of(request).model,
                                  {.batch = 1, .initial_rows = prompt, .growth_rows = kGrowthRows});
  const int64_t reused = start ? start->tokens : 0;
  budget_.promise(waiting.bytes);
  metrics_.count_prompt(prompt, reused);
  Sequence out{std::move(waiting), std::move(cache), GrowingText({}), {}, reused, reused, {}};
  out.tokens = out.from.request.prompt;
  out.text = GrowingText(out.from.request.stop);
  return out;
}

void Engine::prefill() {
  const auto sequence = std::ranges::find_if(running_, &Sequence::is_reading);
  if (sequence == running_.end()) return;
  if (auto failure = attempted([&] { read_chunk(*sequence); }))
    fail(*sequence, Finish::kFailed, std::move(*failure));
}

void Engine::read_chunk(Sequence& sequence) {
  const TextRequest& request = sequence.from.request;
  LoadedModel& loaded = model_of(request);
  DecoderImpl& model = *loaded.model;
  const int64_t left = sequence.prompt_size() - sequence.seen;
  const int64_t count =
      prefixes_.exactness().by_chunks ? std::min(left, options_.prefill_chunk) : left;
  const auto first = sequence.tokens.begin() + sequence.seen;
  const auto ids = torch::tensor(std::vector<int64_t>(first, first + count), torch::kLong)
                       .unsqueeze(0)
                       .to(model.device());
  const auto hidden =
      model.step(ids, Positions::range(sequence.seen, count, model.device()), sequence.cache)[0];
  sequence.seen += count;
  if (request.scores_prompt) {
    if (sequence.prompt_scores.empty())
      sequence.prompt_scores.push_back({request.prompt[0], {}, {}});
    const int64_t known = std::min(count, sequence.prompt_size() - (sequence.seen - count) - 1);
    const auto next =
        std::span(request.prompt)
            .subspan(static_cast<size_t>(sequence.seen - count) + 1, static_cast<size_t>(known));
    for (auto& score :
         score_tokens(model, hidden, next, request.alternatives, known_tokens(loaded)))
      sequence.prompt_scores.push_back(std::move(score));
  }
  if (!sequence.is_reading()) extend(sequence, model.logits(hidden[count - 1]).cpu());
}

void Engine::decode() {
  std::map<size_t, std::vector<Sequence*>> lanes;  // by model
  for (auto& sequence : running_)
    // one whose prompt has just been read has a token that the cache has not seen
    if (!sequence.is_over && sequence.new_tokens() > 0)
      lanes[sequence.from.request.model].push_back(&sequence);
  for (const auto& [model, together] : lanes) decode_together(together);
}

void Engine::decode_together(const std::vector<Sequence*>& lanes) {
  std::vector<NextToken> next;
  for (auto* sequence : lanes)
    next.push_back({&sequence->cache, sequence->tokens.back(), sequence->seen});
  DecoderImpl& model = *model_of(lanes[0]->from.request).model;
  at::Tensor logits;
  if (const auto failure =
          attempted([&] { logits = model.logits(step_together(model, next)).cpu(); })) {
    for (auto* sequence : lanes) fail(*sequence, Finish::kFailed, *failure);
    return;
  }
  for (size_t i = 0; i < lanes.size(); ++i) {
    ++lanes[i]->seen;
    if (auto failure = attempted([&] { extend(*lanes[i], logits[static_cast<int64_t>(i)]); }))
      fail(*lanes[i], Finish::kFailed, std::move(*failure));
  }
}

void Engine::extend(Sequence& sequence, const at::Tensor& logits) {
  const TextRequest& request = sequence.from.request;
  const LoadedModel& model = model_of(request);
  const int64_t known = known_tokens(model);
  ReplyPart part;
  const bool is_first = sequence.new_tokens() == 0;
  if (is_first) {
    part.prompt = std::move(sequence.prompt_scores);
    part.reused = sequence.reused;
  }
  if (request.max_tokens == 0) {
    part.finish = Finish::kLength;
    return end(sequence, std::move(part));
  }
  const auto token = static_cast<int32_t>(
      sample(logits.narrow(0, 0, known), request.sampling, request.sequence, sequence.seen));
  if (is_first)
    metrics_.observe_first_token(
        std::chrono::duration<double>(Clock::now() - sequence.from.since).count());
  if (ends_text(model, request.end_tokens, token)) {
    part.finish = Finish::kStop;
  } else {
    metrics_.count_generated(1);
    sequence.tokens.push_back(token);
    part.tokens.push_back(request.alternatives < 0
                              ? ScoredToken{token, {}, {}}
                              : score_token(logits, token, request.alternatives, known));
    if (sequence.text.append(model.tokenizer->surface(token))) {
      part.finish = Finish::kStop;
    } else if (sequence.new_tokens() >= request.max_tokens) {
      part.finish = Finish::kLength;
    }
  }
  part.text = sequence.text.take_fresh(part.finish != Finish::kNone);
  if (part.finish != Finish::kNone) return end(sequence, std::move(part));
  sequence.from.reply->push(std::move(part));
}

void Engine::end(Sequence& sequence, ReplyPart last) {
  const bool is_sound = last.finish != Finish::kFailed;
  metrics_.count_outcome(outcome_name(last.finish));
  sequence.is_over = true;
  budget_.release(sequence.from.bytes);
  sequence.tokens.resize(static_cast<size_t>(sequence.seen));
  if (is_sound)
    prefixes_.keep(std::move(sequence.tokens), std::move(sequence.cache),
                   sequence.from.request.model);
  sequence.cache = KvCache({});
  sequence.from.reply->push(std::move(last));
}

void Engine::fail(Sequence& sequence, Finish finish, Failure failure) {
  end(sequence, last_part(finish, std::move(failure)));
}

void Engine::publish() {
  Metrics::Gauges gauges;
  gauges.running = static_cast<int64_t>(running_.size());
  gauges.kept_bytes = prefixes_.bytes_used();
  gauges.cache_bytes = gauges.kept_bytes;
  for (const auto& sequence : running_) gauges.cache_bytes += sequence.cache.bytes_used();
  gauges.promised_bytes = budget_.promised();
  gauges.budget_bytes = budget_.bytes();
  {
    const std::scoped_lock lock(mutex_);
    gauges.queued = static_cast<int64_t>(queue_.size());
  }
  metrics_.set(gauges);
}

}  // namespace kvsmith
