#include <iostream>
#include <memory>
#include <optional>

#include <CLI/CLI.hpp>
#include <unistd.h>

#include "cache/cache_options.h"
#include "checkpoints/adapters.h"
#include "core/error.h"
#include "core/process.h"
#include "core/text.h"
#include "tools/chat_commands.h"
#include "tools/model_flags.h"
#include "tools/sampling_flags.h"
#include "tools/verbs.h"

namespace kvsmith {
namespace {

constexpr int64_t kUsualTokens = 512;  // of an answer

struct Flags {
  ModelFlags model;
  std::vector<std::string> adapters, cache;
  GenerateOptions options;
  std::optional<std::string> system;
};

/// Answers on stdout; everything else goes to stderr. Ctrl-C ends the answer, a second one, or one
/// while nothing is written, the program. Returns the number of a signal that asks to stop.
int answer(ChatSession& session, const std::string& question) {
  const StopSignals signals;
  const auto out = session.ask(
      question, [](std::string_view piece) { std::cout << piece << std::flush; },
      [] { return StopSignals::requested() != 0 || !std::cout; });
  std::cout << std::endl;
  if (out.finish == "stopped") std::cerr << "(stopped)\n";
  if (out.finish == "length")
    std::cerr << "(cut after " << out.tokens.size() << " tokens; /set max-new-tokens N)\n";
  if (out.finish == "context")
    std::cerr << "(the context of " << session.context()
              << " tokens is full; /reset begins a new conversation, /undo takes back a turn)\n";
  return StopSignals::requested() == SIGINT ? 0 : StopSignals::requested();
}

int talk(Flags& flags) {
  flags.options.cache = cache_config_of(flags.cache);
  LoadedModel base = load(flags.model);
  auto adapted = load_adapters(base, flags.adapters);
  std::vector<LoadedModel*> models = {&base};
  for (auto& model : adapted) models.push_back(&model);
  ChatSession session(*models[adapted.empty() ? 0 : 1], flags.options, flags.system);
  ChatCommands commands(session, models, flags.cache);
  const bool has_terminal = isatty(STDIN_FILENO) == 1;
  std::cerr << commands.state() << "; /help tells more" << std::endl;
  int signal = 0;
  std::string line;
  while (std::cout && !commands.is_over() && signal == 0) {
    if (has_terminal) std::cerr << "> " << std::flush;
    if (!std::getline(std::cin, line)) break;
    if (line.ends_with('\r')) line.pop_back();
    if (line.find_first_not_of(" \t") == line.npos) continue;
    try {
      const bool is_command = line.starts_with('/') && !line.starts_with("//");
      if (is_command) {
        std::cerr << commands.obey(line);
      } else {
        signal = answer(session, line.starts_with('/') ? line.substr(1) : line);
      }
    } catch (const Error& error) {
      std::cout << std::flush;
      std::cerr << "kvsmith: error: " << error.what() << std::endl;
    } catch (const std::exception& error) {  // memory, above all
      const std::string what = error.what();
      std::cout << std::flush;
      std::cerr << "kvsmith: error: " << what.substr(0, what.find('\n')) << std::endl;
    }
  }
  return signal == 0 ? 0 : 128 + signal;
}

}  // namespace

void add_chat(CLI::App& app, int& exit_code) {
  auto* verb = app.add_subcommand("chat", "Talk with a model, and with its cache");
  auto flags = std::make_shared<Flags>();
  flags->options.max_new_tokens = kUsualTokens;
  add_model_flags(*verb, flags->model);
  verb->add_option("--system", flags->system,
                   "system prompt instead of the template's; \"\": none");
  add_sampling_flags(*verb, flags->options);
  add_cache_flag(*verb, flags->cache);
  add_adapter_flag(*verb, flags->adapters, "; the first answers, /adapter NAME changes to another");
  verb->footer(
      "Reads questions, a line each, from standard input, and lines that begin with a slash about\n"
      "the chat itself: /help lists them. Answers go to standard output, all else to stderr.\n"
      "Examples:\n"
      "  kvsmith chat smollm2 --temperature 0.2\n"
      "  kvsmith chat smollm2 --cache h2o budget_tokens=256 --adapter ahoy=runs/ahoy");
  verb->callback([flags, &exit_code] { exit_code = talk(*flags); });
}

}  // namespace kvsmith
