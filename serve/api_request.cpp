#include "serve/api_request.h"

#include <algorithm>
#include <random>

#include "core/text.h"
#include "inference/generate.h"
#include "serve/request_fields.h"

namespace kvsmith {
namespace {

constexpr int64_t kMostAlternatives = 20;
constexpr size_t kMostStops = 16, kMostPrompts = 1024;
constexpr int64_t kUsualTokens = 16;  // of a completion, as OpenAI's

std::vector<std::string> with_common(std::vector<std::string> fields) {
  for (const char* name : {"model", "max_tokens", "temperature", "top_p", "top_k", "seed", "stop",
                           "stream", "stream_options", "logprobs", "n", "frequency_penalty",
                           "presence_penalty", "logit_bias", "user"})
    fields.emplace_back(name);
  return fields;
}

/// What both kinds of request have.
TextRequest common(const RequestFields& fields, const ApiContext& context, ApiRequest& out) {
  fields.text("model", "");
  fields.expect_neutral("n", 1);
  fields.expect_neutral("frequency_penalty", 0);
  fields.expect_neutral("presence_penalty", 0);
  fields.expect_neutral("logit_bias", nlohmann::json::object());
  out.user = fields.text("user", "");
  out.streams = fields.flag("stream", false);
  if (fields.has("stream_options")) {
    const RequestFields options(fields["stream_options"], {"include_usage"});
    out.tells_usage = options.flag("include_usage", false);
  }
  TextRequest text;
  text.model = context.number;
  text.sampling.temperature = fields.number("temperature", 1, 0, 100);
  text.sampling.top_p = fields.number("top_p", 1, 1e-9, 1);
  text.sampling.top_k = fields.integer("top_k", 0, 0, INT32_MAX);
  text.sampling.seed = fields.has("seed")
                           ? static_cast<uint64_t>(fields.integer("seed", 0, INT64_MIN, INT64_MAX))
                           : std::random_device()();
  text.stop = fields.texts("stop", kMostStops);
  return text;
}

/// Before it is split into tokens, which takes a hundred times the memory of a text.
void expect_fits(size_t bytes, const std::string& field, const ApiContext& context) {
  if (context.longest_prompt == 0 || bytes <= context.longest_prompt) return;
  refuse_field(cat("has ", bytes, " bytes, more than a context of ",
                   context.model.model->config().max_position_embeddings, " tokens can hold"),
               field, "shorten it");
}

/// Sets max_tokens of a text that has its prompt: as asked for, or `usual` where they fit.
void set_max_tokens(TextRequest& text,
                    const RequestFields& fields,
                    const std::string& field,
                    const ApiContext& context,
                    int64_t least,
                    std::optional<int64_t> usual) {
  const int64_t whole = context.model.model->config().max_position_embeddings;
  const int64_t most = context.max_tokens > 0 ? std::min(context.max_tokens, whole) : whole;
  const int64_t left = std::max<int64_t>(1, whole - static_cast<int64_t>(text.prompt.size()));
  text.max_tokens = fields.integer(field, std::min(usual.value_or(left), most), least, most);
  text.takes_what_fits = !fields.has(field);
}

std::vector<int32_t> token_ids(const nlohmann::json& list) {
  std::vector<int32_t> ids;
  for (const auto& one : list) {
    if (!one.is_number_integer())
      refuse_field(cat("has ", one.type_name(), " among token ids"), "prompt");
    const bool fits = one.is_number_unsigned() && one.get<uint64_t>() <= INT32_MAX;
    if (!fits) refuse_field("has the token id " + one.dump(), "prompt");
    ids.push_back(one.get<int32_t>());
  }
  return ids;
}

/// Each of the four forms that `prompt` may have, as a list of texts or of token ids.
std::vector<nlohmann::json> prompts_of(const RequestFields& fields) {
  if (!fields.has("prompt")) refuse_field("is missing", "prompt", "give a text");
  const auto& prompt = fields["prompt"];
  const auto is_text = [](const nlohmann::json& json) { return json.is_string(); };
  const auto is_list = [](const nlohmann::json& json) { return json.is_array(); };
  if (prompt.is_string()) return {prompt};
  if (!prompt.is_array() || prompt.empty())
    refuse_field("is neither text nor token ids", "prompt",
                 "give a string, ids, or a list of them");
  if (!std::ranges::all_of(prompt, is_text) && !std::ranges::all_of(prompt, is_list))
    return {prompt};
  if (prompt.size() > kMostPrompts)
    refuse_field(cat("has ", prompt.size(), " texts"), "prompt",
                 cat("give at most ", kMostPrompts));
  return prompt.get<std::vector<nlohmann::json>>();
}

std::string content_of(const nlohmann::json& content) {
  if (content.is_string()) return content.get<std::string>();
  std::string out;
  if (!content.is_array()) refuse_field("has content that is no text", "messages");
  for (const auto& part : content) {
    const RequestFields fields(part, {"type", "text"});
    if (fields.text("type", "") != "text" || !fields.has("text"))
      refuse_field("has content that is no text", "messages");
    out += fields.text("text", "");
  }
  return out;
}

std::vector<ChatMessage> messages_of(const RequestFields& fields) {
  if (!fields.has("messages") || !fields["messages"].is_array() || fields["messages"].empty())
    refuse_field("is no list of messages", "messages",
                 R"(give [{"role": "user", "content": "..."}])");
  std::vector<ChatMessage> out;
  for (const auto& message : fields["messages"]) {
    const RequestFields one(message, {"role", "content", "name"});
    auto role = one.text("role", "");
    if (role == "developer") role = "system";
    if (role != "system" && role != "user" && role != "assistant")
      refuse_field("has the role " + in_quotes(role), "messages", "give system, user or assistant");
    if (!one.has("content")) refuse_field("has a message without content", "messages");
    out.push_back({role, content_of(one["content"])});
  }
  return out;
}

}  // namespace

size_t longest_prompt(const LoadedModel& model) {
  const Tokenizer& tokenizer = tokenizer_of(model);
  if (!tokenizer.is_lossless()) return 0;  // it may shorten a text before it splits it
  size_t longest = 0;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id)
    longest = std::max(longest, tokenizer.surface(id).size());
  return longest * static_cast<size_t>(model.model->config().max_position_embeddings);
}

const ApiContext& context_of(const nlohmann::json& body, const std::vector<ApiContext>& contexts) {
  // what else may be wrong with it is told where it is read
  if (!body.is_object() || !body.contains("model") || !body["model"].is_string())
    return contexts.front();
  const auto name = body["model"].get<std::string>();
  std::vector<std::string> names;
  for (const ApiContext& context : contexts) {
    if (name == context.name) return context;
    names.push_back(in_quotes(context.name));
  }
  throw Error(ExitCode::kMissingInput, {in_quotes(name) + " is not here", "model",
                                        "leave it out, or give " + join(names, " or ")});
}

ApiRequest completion_request(const nlohmann::json& body, const ApiContext& context) {
  const RequestFields fields(body, with_common({"prompt", "echo", "best_of", "suffix"}));
  ApiRequest out;
  TextRequest text = common(fields, context, out);
  fields.expect_neutral("best_of", 1);
  fields.expect_neutral("suffix", "");
  const bool echoes = fields.flag("echo", false);
  text.alternatives = fields.integer("logprobs", -1, 0, kMostAlternatives);
  text.scores_prompt = echoes && text.alternatives >= 0;
  for (const auto& prompt : prompts_of(fields)) {
    if (prompt.is_string())
      expect_fits(prompt.get_ref<const std::string&>().size(), "prompt", context);
    text.prompt = prompt.is_string() ? text_prompt(context.model, prompt.get<std::string>())
                                     : token_ids(prompt);
    set_max_tokens(text, fields, "max_tokens", context, text.scores_prompt ? 0 : 1, kUsualTokens);
    if (echoes && prompt.is_string()) out.prompts.push_back(prompt.get<std::string>());
    if (echoes && !prompt.is_string())
      out.prompts.push_back(context.model.tokenizer->decode(text.prompt));
    out.texts.push_back(text);
    ++text.sequence;
  }
  return out;
}

ApiRequest chat_request(const nlohmann::json& body, const ApiContext& context) {
  const RequestFields fields(body, with_common({"messages", "max_completion_tokens", "top_logprobs",
                                                "store", "metadata"}));
  ApiRequest out;
  out.is_chat = true;
  TextRequest text = common(fields, context, out);
  if (!context.chat) refuse_field(context.chat_problem, "model", "use /v1/completions");
  const auto messages = messages_of(fields);
  size_t bytes = 0;
  for (const auto& message : messages) bytes += message.content.size();
  expect_fits(bytes, "messages", context);
  text.prompt = context.chat->prompt(messages);
  const auto* limit = fields.has("max_completion_tokens") ? "max_completion_tokens" : "max_tokens";
  set_max_tokens(text, fields, limit, context, 1, {});
  const int64_t alternatives = fields.integer("top_logprobs", 0, 0, kMostAlternatives);
  if (fields.flag("logprobs", false)) text.alternatives = alternatives;
  GenerateOptions ending;
  context.chat->end_with_answer(ending);
  text.end_tokens = ending.end_tokens;
  text.stop.insert(text.stop.end(), ending.stop.begin(), ending.stop.end());
  out.texts.push_back(std::move(text));
  return out;
}

}  // namespace kvsmith
