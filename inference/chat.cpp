#include "inference/chat.h"

namespace kvsmith {
namespace {

ChatTemplate template_of(const Tokenizer& tokenizer, const std::optional<std::string>& system) {
  const auto recognized = ChatTemplate::recognize(tokenizer.chat_template());
  return system ? ChatTemplate(recognized.format(), *system) : recognized;
}

}  // namespace

Chat::Chat(const LoadedModel& model, const std::optional<std::string>& system)
    : tokenizer_(tokenizer_of(model)), template_(template_of(tokenizer_, system)) {}

std::vector<int32_t> Chat::prompt(const std::vector<ChatMessage>& messages) const {
  return ids(messages, /*asks=*/true);
}

std::vector<int32_t> Chat::so_far(const std::vector<ChatMessage>& messages) const {
  return ids(messages, /*asks=*/false);
}

std::vector<int32_t> Chat::ids(const std::vector<ChatMessage>& messages, bool asks) const {
  auto ids = template_.ids(tokenizer_, messages, asks);
  // the other formats write begin-of-text themselves where they want it
  if (template_.format() == ChatTemplate::Format::kPlain && tokenizer_.bos_id() >= 0)
    ids.insert(ids.begin(), tokenizer_.bos_id());
  return ids;
}

void Chat::end_with_answer(GenerateOptions& options) const {
  if (const auto token = template_.end_of_turn(); !token.empty())
    options.end_tokens.push_back(tokenizer_.special_id(token));
  else
    options.stop.push_back(template_.next_turn());
}

}  // namespace kvsmith
