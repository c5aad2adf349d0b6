#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "checkpoints/load.h"
#include "data/chat_template.h"
#include "inference/generate.h"

namespace kvsmith {

/// How one model is talked to: in the chat template that its tokenizer carries, in the plain format
/// where it carries none.
class Chat {
 public:
  /// `system` takes the place of the template's default system prompt; empty: none. Throws Error
  /// (64) without tokenizer, 78 for a template that is not known.
  explicit Chat(const LoadedModel& model, const std::optional<std::string>& system = std::nullopt);

  /// Token ids up to where the answer begins.
  std::vector<int32_t> prompt(const std::vector<ChatMessage>& messages) const;
  /// Token ids of a chat that goes on with a question; prompt() of the longer chat begins with
  /// them.
  std::vector<int32_t> so_far(const std::vector<ChatMessage>& messages) const;
  /// Adds what an answer ends with.
  void end_with_answer(GenerateOptions& options) const;

 private:
  std::vector<int32_t> ids(const std::vector<ChatMessage>& messages, bool asks) const;

  Tokenizer tokenizer_;
  ChatTemplate template_;
};

}  // namespace kvsmith
