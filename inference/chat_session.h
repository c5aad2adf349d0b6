#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "inference/chat.h"
#include "inference/kept_cache.h"

namespace kvsmith {

/// What answers have cost.
struct TalkStats {
  /// prompt_tokens: those that were read, in `last` of the last question and what goes before it.
  GenerateStats last, all;
  int64_t reused = 0;  ///< of the last question and what goes before it, tokens not read again
  int64_t answers = 0;
};

/// A conversation with a model, in its chat template. Every answer is the one that generate() gives
/// to the token ids of the whole conversation; the cache lives on between them as far as that
/// allows. What throws leaves the conversation as it was.
class ChatSession {
 public:
  /// options.cache as that of a KeptCache; `system` as in Chat. The model outlives its use here.
  /// Throws Error: 64 without tokenizer or for options out of range, 78 for a cache that the model
  /// cannot have.
  ChatSession(LoadedModel& model,
              GenerateOptions options,
              std::optional<std::string> system = std::nullopt);

  /// Answers, with at most options().max_new_tokens, fewer where the context ends before. finish is
  /// as in Generation, "context" where that ended it, or "stopped" once `is_stopped` says so, which
  /// is asked after each token. `on_text` gets whole UTF-8 characters as they appear. Throws Error:
  /// 64 where the question does not fit into the context, 65 for text that is not UTF-8, 80.
  Generation ask(const std::string& question,
                 const std::function<void(std::string_view)>& on_text = {},
                 const std::function<bool()>& is_stopped = {});
  /// Takes back the last question and its answer. False where there is none.
  bool undo();
  /// Forgets the conversation.
  void reset();

  /// Puts other options in place of options(); `cache` is that of set_cache(). Throws Error (64).
  void set_options(GenerateOptions options);
  /// From here on, and as if it had been so from the beginning. Each reads the conversation anew.
  void set_cache(const CacheConfig& config);
  void set_model(LoadedModel& model);
  void set_system(std::optional<std::string> system);

  const LoadedModel& model() const { return *model_; }
  const GenerateOptions& options() const { return options_; }
  const std::vector<ChatMessage>& messages() const { return messages_; }
  const KeptCache& cache() const { return cache_; }
  const TalkStats& stats() const { return stats_; }
  /// Tokens of the conversation, and those that there may be.
  int64_t tokens() const;
  int64_t context() const { return model_->model->config().max_position_embeddings; }

 private:
  Generation answer(const std::function<void(std::string_view)>& on_text,
                    const std::function<bool()>& is_stopped);
  /// A cache that has read the conversation.
  KeptCache cache_of(const LoadedModel& model, const Chat& chat, const CacheConfig& config) const;

  LoadedModel* model_;
  GenerateOptions options_;
  std::optional<std::string> system_;
  Chat chat_;
  KeptCache cache_;
  std::vector<ChatMessage> messages_;
  TalkStats stats_;
};

}  // namespace kvsmith
