#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "checkpoints/load.h"
#include "inference/chat.h"
#include "serve/text_request.h"

namespace kvsmith {

/// A request for completions or an answer of a chat, as OpenAI's clients write it.
struct ApiRequest {
  std::vector<TextRequest> texts;    ///< one a prompt
  std::vector<std::string> prompts;  ///< what `echo` repeats; empty without it
  bool is_chat = false;
  bool streams = false;
  bool tells_usage = false;  ///< at the end of a stream
  std::string user;          ///< who asks, of several behind one address
};

/// What a request is read against.
struct ApiContext {
  const LoadedModel& model;
  size_t number = 0;              ///< of the model, in the engine
  std::string name;               ///< of the model, to clients
  int64_t max_tokens = 0;         ///< most that may be asked for; 0: as many as the context has
  size_t longest_prompt = 0;      ///< bytes that may fit the context; 0: any may
  const Chat* chat = nullptr;     ///< null: no template that is known
  std::string chat_problem = {};  ///< then: why
};

/// Bytes of text which surely have more tokens than the context of the model; 0 where that cannot
/// be told.
size_t longest_prompt(const LoadedModel& model);

/// The context of the model that a request names; the first where it names none. Throws Error (66)
/// for a model that is not here, with those that are.
const ApiContext& context_of(const nlohmann::json& body, const std::vector<ApiContext>& contexts);

/// The body of POST /v1/completions, or /v1/chat/completions. Throws Error (64) that names the
/// field which is wrong.
ApiRequest completion_request(const nlohmann::json& body, const ApiContext& context);
ApiRequest chat_request(const nlohmann::json& body, const ApiContext& context);

}  // namespace kvsmith
