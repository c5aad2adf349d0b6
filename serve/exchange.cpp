#include "serve/exchange.h"

#include <utility>

namespace kvsmith {
namespace {

constexpr int kClientLeft = 499;  // nobody will read it
constexpr std::chrono::milliseconds kPatience{20};

int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

Exchange::Exchange(Engine& engine,
                   const ApiContext& context,
                   ApiRequest request,
                   std::string id,
                   Connection connection,
                   Clock::time_point deadline)
    : request_(std::move(request)),
      writer_(request_, context, std::move(id), unix_seconds()),
      connection_(connection),
      deadline_(deadline),
      answers_(request_.texts.size()),
      left_(request_.texts.size()) {
  for (const auto& text : request_.texts) replies_.push_back(engine.submit(text));
}

Exchange::~Exchange() {
  for (const auto& reply : replies_) reply->cancel();
}

void Exchange::fail(Failure failure) {
  failure_ = std::move(failure);
  for (const auto& reply : replies_) reply->cancel();
}

std::optional<Exchange::Event> Exchange::next_of(size_t index, std::chrono::milliseconds patience) {
  if (failure_ || answers_[index].finish != Finish::kNone) return {};
  auto part = replies_[index]->next(patience);
  if (!part) return {};
  if (part->finish == Finish::kRefused || part->finish == Finish::kFailed) {
    fail(std::move(part->failure));
    return {};
  }
  if (part->finish != Finish::kNone) --left_;
  Event event{index, {}};
  event.fresh.add(*part);
  answers_[index].add(std::move(*part));
  return event;
}

std::vector<Exchange::Event> Exchange::wait() {
  std::vector<Event> events;
  for (size_t i = 0; i < replies_.size(); ++i)
    while (auto event = next_of(i, std::chrono::milliseconds(0))) events.push_back(*event);
  for (size_t i = 0; i < replies_.size() && events.empty() && !is_over(); ++i) {
    if (answers_[i].finish != Finish::kNone) continue;
    if (auto event = next_of(i, kPatience)) events.push_back(*event);
    break;
  }
  if (is_over()) return events;
  if (Clock::now() > deadline_) {
    fail({504, "the time for this request is up", "timeout"});
  } else if (connection_.has_closed()) {
    fail({kClientLeft, "the client has left", "client_left"});
  }
  return events;
}

}  // namespace kvsmith
