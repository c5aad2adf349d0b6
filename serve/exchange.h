#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "serve/api_answer.h"
#include "serve/connection.h"
#include "serve/engine.h"

namespace kvsmith {

/// One HTTP request while its texts are being continued; they end with it.
class Exchange {
 public:
  using Clock = std::chrono::steady_clock;

  /// Submits all texts of the request.
  Exchange(Engine& engine,
           const ApiContext& context,
           ApiRequest request,
           std::string id,
           Connection connection,
           Clock::time_point deadline);
  ~Exchange();
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  /// Something new about one text.
  struct Event {
    size_t index = 0;
    Answer fresh;
  };
  /// What has come; empty after a short while without anything. A failure of one text ends all.
  std::vector<Event> wait();
  bool is_over() const { return left_ == 0 || failure_; }
  /// Why there will be no answer: what the engine says, the time is up, or the client has left.
  const std::optional<Failure>& failure() const { return failure_; }

  const ApiRequest& request() const { return request_; }
  const std::vector<Answer>& answers() const { return answers_; }
  AnswerWriter& writer() { return writer_; }

 private:
  std::optional<Event> next_of(size_t index, std::chrono::milliseconds patience);
  void fail(Failure failure);

  ApiRequest request_;
  AnswerWriter writer_;
  Connection connection_;
  Clock::time_point deadline_;
  std::vector<std::shared_ptr<Reply>> replies_;
  std::vector<Answer> answers_;
  size_t left_;  ///< texts that go on
  std::optional<Failure> failure_;
};

}  // namespace kvsmith
