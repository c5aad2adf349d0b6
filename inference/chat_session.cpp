#include "inference/chat_session.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/stopwatch.h"
#include "core/text.h"
#include "inference/continuation.h"

namespace kvsmith {
namespace {

void add(GenerateStats& sum, const GenerateStats& more) {
  sum.prompt_tokens += more.prompt_tokens;
  sum.new_tokens += more.new_tokens;
  sum.prefill_seconds += more.prefill_seconds;
  sum.decode_seconds += more.decode_seconds;
}

/// For an answer of one token.
void expect_room(size_t tokens, int64_t context) {
  if (static_cast<int64_t>(tokens) < context) return;
  throw Error(ExitCode::kUsage,
              {cat("the conversation would have ", tokens, " tokens, and the context is ", context),
               "chat", "/reset begins a new one, /undo takes back the last turn"});
}

GenerateOptions checked(GenerateOptions options) {
  check(options.sampling);
  if (options.max_new_tokens < 1)
    throw Error(ExitCode::kUsage,
                {cat(options.max_new_tokens, " new tokens"), "chat", "give 1 or more"});
  return options;
}

}  // namespace

ChatSession::ChatSession(LoadedModel& model,
                         GenerateOptions options,
                         std::optional<std::string> system)
    : model_(&model),
      options_(checked(std::move(options))),
      system_(std::move(system)),
      chat_(model, system_),
      cache_(model.model, options_.cache.value_or(CacheConfig())) {}

Generation ChatSession::ask(const std::string& question,
                            const std::function<void(std::string_view)>& on_text,
                            const std::function<bool()>& is_stopped) {
  messages_.push_back({"user", question});
  try {
    auto out = answer(on_text, is_stopped);
    messages_.push_back({"assistant", out.text});
    return out;
  } catch (...) {
    messages_.pop_back();
    throw;
  }
}

Generation ChatSession::answer(const std::function<void(std::string_view)>& on_text,
                               const std::function<bool()>& is_stopped) {
  const auto prompt = chat_.prompt(messages_);
  expect_room(prompt.size(), context());
  const auto asked = static_cast<int64_t>(prompt.size());
  const int64_t room = context() - asked;
  auto options = options_;
  options.max_new_tokens = std::min(options.max_new_tokens, room);
  chat_.end_with_answer(options);
  const int64_t known = known_tokens(*model_);
  Continuation text(*model_, options);
  const auto show = [&](const std::string& fresh) {
    if (on_text && !fresh.empty()) on_text(fresh);
  };

  GenerateStats counted;
  Stopwatch watch;
  auto logits = cache_.read(prompt);
  counted.prompt_tokens = asked - cache_.reused();
  counted.prefill_seconds = watch.seconds();
  watch.restart();
  while (true) {
    const int64_t token =
        sample(logits.narrow(0, 0, known), options.sampling, /*sequence=*/0, cache_.tokens());
    ++counted.new_tokens;
    show(text.take(token));
    if (!text.is_over() && is_stopped && is_stopped()) show(text.end("stopped"));
    if (text.is_over()) break;
    logits = cache_.append(static_cast<int32_t>(token));
  }
  counted.decode_seconds = watch.seconds();
  counted.cache_bytes = cache_.bytes_used();
  counted.cache_bytes_reserved = cache_.bytes_reserved();
  stats_.last = counted;
  stats_.reused = cache_.reused();
  add(stats_.all, counted);
  ++stats_.answers;
  auto out = text.result();
  if (out.finish == "length" && options.max_new_tokens == room) out.finish = "context";
  return out;
}

bool ChatSession::undo() {
  if (messages_.empty()) return false;
  messages_.resize(messages_.size() - 2);
  return true;
}

void ChatSession::reset() {
  messages_.clear();
  cache_ = KeptCache(model_->model, cache_.plan().config());
}

void ChatSession::set_options(GenerateOptions options) {
  options.cache = options_.cache;
  options_ = checked(std::move(options));
}

KeptCache ChatSession::cache_of(const LoadedModel& model,
                                const Chat& chat,
                                const CacheConfig& config) const {
  KeptCache out(model.model, config);
  if (messages_.empty()) return out;
  const auto text = chat.so_far(messages_);
  expect_room(text.size(), context());
  out.read(text);
  return out;
}

void ChatSession::set_cache(const CacheConfig& config) {
  cache_ = cache_of(*model_, chat_, config);
  options_.cache = config;
}

void ChatSession::set_model(LoadedModel& model) {
  Chat chat(model, system_);
  cache_ = cache_of(model, chat, cache_.plan().config());
  chat_ = std::move(chat);
  model_ = &model;
}

void ChatSession::set_system(std::optional<std::string> system) {
  Chat chat(*model_, system);
  cache_ = cache_of(*model_, chat, cache_.plan().config());
  chat_ = std::move(chat);
  system_ = std::move(system);
}

int64_t ChatSession::tokens() const { return static_cast<int64_t>(chat_.so_far(messages_).size()); }

}  // namespace kvsmith
