#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "data/tokenizer.h"
#include "serve/api_request.h"
#include "serve/reply.h"

namespace kvsmith {

/// The parts of one text, or some of them, put together as a client gets them.
struct Answer {
  std::string text;
  std::vector<ScoredToken> prompt, tokens;
  Finish finish = Finish::kNone;
  int64_t new_tokens = 0, reused = 0;

  void add(ReplyPart part);
};

/// Writes answers to one request in OpenAI's forms.
class AnswerWriter {
 public:
  /// `id` is unique, `created` in seconds since 1970.
  AnswerWriter(const ApiRequest& request,
               const ApiContext& context,
               std::string id,
               int64_t created);

  /// The body of an answer: one for each text.
  nlohmann::ordered_json whole(const std::vector<Answer>& answers) const;
  /// What comes before the parts of a stream; null: nothing.
  nlohmann::ordered_json opening() const;
  /// A part of the stream: `fresh` of text `index`.
  nlohmann::ordered_json part(size_t index, const Answer& fresh);
  /// What a stream tells at its end, where it is asked for.
  nlohmann::ordered_json usage_part(const std::vector<Answer>& answers) const;

 private:
  nlohmann::ordered_json envelope(bool is_part) const;
  nlohmann::ordered_json usage(const std::vector<Answer>& answers) const;
  /// Of a completion. offset: characters before, moved on.
  nlohmann::ordered_json logprobs(const Answer& answer, int64_t& offset) const;
  nlohmann::ordered_json chat_logprobs(const Answer& answer) const;

  const ApiRequest& request_;
  const Tokenizer& tokenizer_;
  std::string model_, id_;
  int64_t created_;
  std::vector<int64_t> offsets_;  ///< characters of each text so far
  std::vector<bool> has_begun_;   ///< its prompt has been repeated
};

/// The text of one token, as UTF-8: "bytes:\xe6" for a part of a character, the name of a control
/// token.
std::string token_text(const Tokenizer& tokenizer, int32_t id);

/// {"error": {...}}.
nlohmann::ordered_json error_json(const Failure& failure, const std::string& field = "");

/// One line whatever is in it: what is not UTF-8 becomes U+FFFD.
std::string dumped(const nlohmann::ordered_json& json);

}  // namespace kvsmith
