#pragma once

#include <string>
#include <utility>
#include <vector>

#include "inference/chat_session.h"

namespace kvsmith {

/// What is said to a chat about itself: lines such as "/cache h2o budget_tokens=256".
class ChatCommands {
 public:
  /// `models`: the base and its adapters; `cache`: the words of --cache. The session and the
  /// models outlive this object.
  ChatCommands(ChatSession& session,
               std::vector<LoadedModel*> models,
               std::vector<std::string> cache)
      : session_(session), models_(std::move(models)), cache_(std::move(cache)) {}

  /// Obeys a line that begins with a slash. Returns what there is to tell, lines that end in a line
  /// end. Throws Error (64) for what is no command, with the nearest one, and what the session
  /// throws, which is then as it was.
  std::string obey(const std::string& line);
  /// After /quit.
  bool is_over() const { return is_over_; }
  /// "smollm2, context 8192, cache full".
  std::string state() const;

 private:
  struct Command {
    const char *name, *arguments, *help;
    std::string (ChatCommands::*act)(const std::string& rest);
  };
  static const std::vector<Command>& commands();

  std::string help(const std::string& rest);
  std::string stats(const std::string& rest);
  std::string cache(const std::string& rest);
  std::string system(const std::string& rest);
  std::string set(const std::string& rest);
  std::string adapter(const std::string& rest);
  std::string undo(const std::string& rest);
  std::string reset(const std::string& rest);
  std::string quit(const std::string& rest);

  ChatSession& session_;
  std::vector<LoadedModel*> models_;
  std::vector<std::string> cache_;
  bool is_over_ = false;
};

}  // namespace kvsmith
