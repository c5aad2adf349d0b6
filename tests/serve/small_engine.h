#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <torch/types.h>

#include "serve/api_answer.h"
#include "serve/engine.h"
#include "tests/data/small_tokenizer.h"
#include "tests/support/tiny.h"

namespace kvsmith {

/// An untrained model with a real tokenizer; `change` as in tiny_model().
inline LoadedModel small_loaded(const std::function<void(ModelConfig&)>& change = {}) {
  LoadedModel out;
  out.tokenizer = small_tokenizer();
  out.bos_id = out.tokenizer->bos_id();
  out.name = "small";
  auto config = tiny_model(2, [&](ModelConfig& c) {
    c.vocab_size = out.tokenizer->vocab_size();
    c.max_position_embeddings = 256;
    if (change) change(c);
  });
  out.model = Decoder(config);
  initialize(*out.model, 4);
  out.model->eval();
  return out;
}

/// Bytes of its cache for so many tokens.
inline int64_t bytes_of_tokens(const LoadedModel& model, int64_t tokens) {
  return kv_cache_bytes(model.model->config(), tokens, 4);
}

/// `size` tokens that depend on `seed`.
inline std::vector<int32_t> some_prompt(int64_t size, int32_t seed = 0) {
  std::vector<int32_t> out;
  for (int32_t i = 0; i < size; ++i) out.push_back(10 + (seed * 131 + i * 17) % 500);
  return out;
}

inline TextRequest greedy(std::vector<int32_t> prompt, int64_t max_tokens) {
  TextRequest out;
  out.prompt = std::move(prompt);
  out.max_tokens = max_tokens;
  out.sampling.temperature = 0;
  return out;
}

/// All of an answer, and why there is none. Gives up after a minute.
struct Outcome {
  Answer answer;
  Failure failure;

  Finish finish() const { return answer.finish; }
  std::vector<int32_t> ids() const {
    std::vector<int32_t> out;
    for (const auto& token : answer.tokens) out.push_back(token.id);
    return out;
  }
};

inline Outcome outcome_of(Reply& reply) {
  Outcome out;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (out.answer.finish == Finish::kNone && std::chrono::steady_clock::now() < deadline) {
    auto part = reply.next(std::chrono::milliseconds(100));
    if (!part) continue;
    out.failure = part->failure;
    out.answer.add(std::move(*part));
  }
  return out;
}

/// Waits for what the engine does in its own time. False after half a minute.
inline bool eventually(const std::function<bool()>& holds) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!holds()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

}  // namespace kvsmith
