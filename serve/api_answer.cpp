#include "serve/api_answer.h"

#include <algorithm>
#include <utility>

#include "data/utf8.h"

namespace kvsmith {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kLeast = -9999;  // for a probability of 0, which JSON cannot write

double finite(double logprob) { return std::max(logprob, kLeast); }

/// Bytes that begin a code point.
int64_t characters(std::string_view text) {
  return std::ranges::count_if(
      text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

Json finish_reason(Finish finish) {
  if (finish == Finish::kNone) return nullptr;
  return finish == Finish::kLength ? "length" : "stop";
}

}  // namespace

void Answer::add(ReplyPart part) {
  text += part.text;
  std::ranges::move(part.prompt, std::back_inserter(prompt));
  new_tokens += static_cast<int64_t>(part.tokens.size());
  std::ranges::move(part.tokens, std::back_inserter(tokens));
  reused += part.reused;
  finish = part.finish;
}

std::string token_text(const Tokenizer& tokenizer, int32_t id) {
  if (tokenizer.is_special(id)) return tokenizer.piece(id);
  const std::string& surface = tokenizer.surface(id);
  if (find_invalid_utf8(surface) == surface.size()) return surface;
  constexpr const char* kDigits = "0123456789abcdef";
  std::string out = "bytes:";
  for (const char c : surface) {
    const auto byte = static_cast<unsigned char>(c);
    out += {'\\', 'x', kDigits[byte / 16], kDigits[byte % 16]};
  }
  return out;
}

AnswerWriter::AnswerWriter(const ApiRequest& request,
                           const ApiContext& context,
                           std::string id,
                           int64_t created)
    : request_(request),
      tokenizer_(*context.model.tokenizer),
      model_(context.name),
      id_(std::move(id)),
      created_(created),
      offsets_(request.texts.size(), 0),
      has_begun_(request.texts.size(), request.prompts.empty()) {}

Json AnswerWriter::envelope(bool is_part) const {
  const char* object = !request_.is_chat ? "text_completion"
                       : is_part         ? "chat.completion.chunk"
                                         : "chat.completion";
  return {{"id", id_},
          {"object", object},
          {"created", created_},
          {"model", model_},
          {"choices", Json::array()}};
}

Json AnswerWriter::usage(const std::vector<Answer>& answers) const {
  int64_t prompt = 0, fresh = 0, reused = 0;
  for (const auto& text : request_.texts) prompt += static_cast<int64_t>(text.prompt.size());
  for (const auto& answer : answers) {
    fresh += answer.new_tokens;
    reused += answer.reused;
  }
  return {{"prompt_tokens", prompt},
          {"completion_tokens", fresh},
          {"total_tokens", prompt + fresh},
          {"prompt_tokens_details", {{"cached_tokens", reused}}}};
}

Json AnswerWriter::logprobs(const Answer& answer, int64_t& offset) const {
  Json out = {{"tokens", Json::array()},
              {"token_logprobs", Json::array()},
              {"top_logprobs", Json::array()},
              {"text_offset", Json::array()}};
  const auto add = [&](const ScoredToken& token) {
    out["tokens"].push_back(token_text(tokenizer_, token.id));
    out["token_logprobs"].push_back(token.logprob ? Json(finite(*token.logprob)) : Json());
    Json top = Json::object();
    // the token itself is always among them; of tokens that read alike the likeliest counts
    if (token.logprob) top[token_text(tokenizer_, token.id)] = finite(*token.logprob);
    for (const auto& [id, logprob] : token.top) {
      auto& place = top[token_text(tokenizer_, id)];
      place = place.is_null() ? finite(logprob) : std::max(place.get<double>(), finite(logprob));
    }
    out["top_logprobs"].push_back(token.logprob ? std::move(top) : Json());
    out["text_offset"].push_back(offset);
    if (!tokenizer_.is_special(token.id)) offset += characters(tokenizer_.surface(token.id));
  };
  for (const auto& token : answer.prompt) add(token);
  for (const auto& token : answer.tokens) add(token);
  return out;
}

Json AnswerWriter::chat_logprobs(const Answer& answer) const {
  const auto entry = [&](int32_t id, double logprob) {
    Json bytes = Json::array();
    for (const char c : tokenizer_.surface(id)) bytes.push_back(static_cast<unsigned char>(c));
    return Json{{"token", token_text(tokenizer_, id)},
                {"logprob", finite(logprob)},
                {"bytes", std::move(bytes)}};
  };
  Json content = Json::array();
  for (const auto& token : answer.tokens) {
    Json one = entry(token.id, token.logprob.value_or(kLeast));
    one["top_logprobs"] = Json::array();
    for (const auto& [id, logprob] : token.top) one["top_logprobs"].push_back(entry(id, logprob));
    content.push_back(std::move(one));
  }
  return {{"content", std::move(content)}};
}

Json AnswerWriter::whole(const std::vector<Answer>& answers) const {
  Json out = envelope(/*is_part=*/false);
  for (size_t i = 0; i < answers.size(); ++i) {
    const Answer& answer = answers[i];
    const bool has_scores = request_.texts[i].alternatives >= 0;
    Json choice = {{"index", i}};
    int64_t offset = 0;
    if (request_.is_chat) {
      choice["message"] = {{"role", "assistant"}, {"content", answer.text}};
      choice["logprobs"] = has_scores ? chat_logprobs(answer) : Json();
    } else {
      choice["text"] = (request_.prompts.empty() ? "" : request_.prompts[i]) + answer.text;
      choice["logprobs"] = has_scores ? logprobs(answer, offset) : Json();
    }
    choice["finish_reason"] = finish_reason(answer.finish);
    out["choices"].push_back(std::move(choice));
  }
  out["usage"] = usage(answers);
  return out;
}

Json AnswerWriter::opening() const {
  if (!request_.is_chat) return nullptr;
  Json out = envelope(/*is_part=*/true);
  out["choices"].push_back({{"index", 0},
                            {"delta", {{"role", "assistant"}, {"content", ""}}},
                            {"logprobs", nullptr},
                            {"finish_reason", nullptr}});
  return out;
}

Json AnswerWriter::part(size_t index, const Answer& fresh) {
  Json out = envelope(/*is_part=*/true);
  const bool has_scores = request_.texts[index].alternatives >= 0;
  Json choice = {{"index", index}};
  if (request_.is_chat) {
    choice["delta"] = fresh.text.empty() ? Json::object() : Json{{"content", fresh.text}};
    choice["logprobs"] = has_scores ? chat_logprobs(fresh) : Json();
  } else {
    choice["text"] = (has_begun_[index] ? "" : request_.prompts[index]) + fresh.text;
    choice["logprobs"] = has_scores ? logprobs(fresh, offsets_[index]) : Json();
    has_begun_[index] = true;
  }
  choice["finish_reason"] = finish_reason(fresh.finish);
  out["choices"].push_back(std::move(choice));
  return out;
}

Json AnswerWriter::usage_part(const std::vector<Answer>& answers) const {
  Json out = envelope(/*is_part=*/true);
  out["usage"] = usage(answers);
  return out;
}

Json error_json(const Failure& failure, const std::string& field) {
  const char* type = failure.status == 401   ? "authentication_error"
                     : failure.status == 429 ? "rate_limit_error"
                     : failure.status < 500  ? "invalid_request_error"
                                             : "server_error";
  return {{"error",
           {{"message", failure.message},
            {"type", type},
            {"param", field.empty() ? Json() : Json(field)},
            {"code", failure.code.empty() ? Json() : Json(failure.code)}}}};
}

std::string dumped(const Json& json) {
  return json.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

}  // namespace kvsmith
