#include "tools/chat_commands.h"

#include <algorithm>
#include <iomanip>
#include <sstream>
#include <utility>

#include "cache/cache_options.h"
#include "core/error.h"
#include "core/text.h"
#include "tools/sampling_flags.h"

namespace kvsmith {
namespace {

constexpr const char* kNoAdapter = "none";

/// "12 read at 34.5 tokens/s, 6 written at 7.8 tokens/s".
std::string speeds(const GenerateStats& stats) {
  const auto at = [](int64_t tokens, double seconds) {
    return cat(" at ", std::fixed, std::setprecision(1),
               static_cast<double>(tokens) / std::max(seconds, 1e-9), " tokens/s");
  };
  return cat(stats.prompt_tokens, " tokens read", at(stats.prompt_tokens, stats.prefill_seconds),
             ", ", stats.new_tokens, " written", at(stats.new_tokens, stats.decode_seconds));
}

std::string cache_bytes(const KeptCache& cache) {
  return cat(cache.bytes_used(), " bytes used of ", cache.bytes_reserved(),
             " reserved, by the formula ", cache.plan().depends_on_text() ? "at most " : "",
             cache.bytes_by_formula());
}

}  // namespace

const std::vector<ChatCommands::Command>& ChatCommands::commands() {
  static const std::vector<Command> all = {
      {"stats", "", "what the cache holds, how full the context is, and how fast it went",
       &ChatCommands::stats},
      {"cache", "[WORDS]",
       "show or change what is done to the cache, in the words of --cache: h2o budget_tokens=256",
       &ChatCommands::cache},
      {"system", "[TEXT]", "another system prompt; without TEXT: none", &ChatCommands::system},
      {"set", "[NAME VALUE]", "show or change temperature, top-k, top-p, seed, max-new-tokens",
       &ChatCommands::set},
      {"adapter", "[NAME]", "show adapters, or answer with one; none: with the model alone",
       &ChatCommands::adapter},
      {"undo", "", "take back the last question and its answer", &ChatCommands::undo},
      {"reset", "", "begin a new conversation", &ChatCommands::reset},
      {"help", "", "this text", &ChatCommands::help},
      {"quit", "", "end, as ctrl-D does", &ChatCommands::quit},
  };
  return all;
}

std::string ChatCommands::obey(const std::string& line) {
  constexpr const char* kWhite = " \t";
  const size_t end = std::min(line.find_first_of(kWhite), line.size());
  const std::string name = line.substr(1, end - 1);
  const size_t begin = std::min(line.find_first_not_of(kWhite, end), line.size());
  const std::string rest = line.substr(begin, line.find_last_not_of(kWhite) + 1 - begin);
  std::vector<std::string> names;
  for (const Command& command : commands()) {
    if (name == command.name) return (this->*command.act)(rest);
    names.push_back(cat("/", command.name));
  }
  throw Error(ExitCode::kUsage,
              {"no command " + in_quotes("/" + name), "chat", suggestion("/" + name, names)});
}

std::string ChatCommands::state() const {
  return cat(session_.model().name, ", context ", session_.context(), ", cache ",
             method_name(session_.cache().plan()));
}

std::string ChatCommands::help(const std::string& /*rest*/) {
  std::ostringstream out;
  for (const Command& command : commands())
    out << std::left << std::setw(20) << cat("/", command.name, " ", command.arguments)
        << command.help << "\n";
  out << "A question may begin with a slash: write two. Ctrl-C ends an answer.\n";
  return out.str();
}

std::string ChatCommands::stats(const std::string& /*rest*/) {
  const TalkStats& stats = session_.stats();
  std::string out = cat("model    ", session_.model().name, "\ncache    ",
                        method_name(session_.cache().plan()), ": ", cache_bytes(session_.cache()),
                        "\ncontext  ", session_.tokens(), " of ", session_.context(), " tokens\n");
  if (stats.answers == 0) return out;
  return cat(out, "last     ", speeds(stats.last), "; ", stats.reused,
             " were in the cache\nchat     ", speeds(stats.all), ", in ", stats.answers,
             stats.answers == 1 ? " answer\n" : " answers\n");
}

std::string ChatCommands::cache(const std::string& rest) {
  if (!rest.empty()) {
    auto words = words_of(rest);
    // a single key is laid over what there is, a method takes its place
    if (words[0].find('=') != std::string::npos)
      words.insert(words.begin(), cache_.begin(), cache_.end());
    session_.set_cache(cache_config_of(words));
    cache_ = std::move(words);
  }
  return cat("cache ", method_name(session_.cache().plan()), ": ", cache_bytes(session_.cache()),
             session_.cache().exactness().by_chunks
                 ? "\n"
                 : "; all is read anew for each question, since what this keeps depends on where "
                   "a text is parted\n");
}

std::string ChatCommands::system(const std::string& rest) {
  session_.set_system(rest);
  return cat(rest.empty() ? "no" : "another", " system prompt\n");
}

std::string ChatCommands::set(const std::string& rest) {
  const auto words = words_of(rest);
  if (words.size() != 0 && words.size() != 2)
    throw Error(ExitCode::kUsage, {in_quotes(rest), "/set", "write /set temperature 0.7"});
  auto options = session_.options();
  if (!words.empty()) {
    set_sampling(options, words[0], words[1]);
    session_.set_options(options);
  }
  return sampling_text(options) + "\n";
}

std::string ChatCommands::adapter(const std::string& rest) {
  std::vector<std::string> names = {kNoAdapter};
  for (size_t i = 1; i < models_.size(); ++i) names.push_back(models_[i]->name);
  if (rest.empty())
    return cat("answers: ", session_.model().name, "; choose one of: ", join(names), "\n");
  const auto place = std::ranges::find(names, rest);
  if (place == names.end())
    throw Error(ExitCode::kUsage,
                {"no adapter " + in_quotes(rest), "/adapter", suggestion(rest, names)});
  session_.set_model(*models_[static_cast<size_t>(place - names.begin())]);
  return state() + "\n";
}

std::string ChatCommands::undo(const std::string& /*rest*/) {
  if (!session_.undo()) throw Error(ExitCode::kUsage, {"nothing was said", "/undo", "ask first"});
  return cat(session_.messages().size() / 2, " questions are left\n");
}

std::string ChatCommands::reset(const std::string& /*rest*/) {
  session_.reset();
  return cat("a new conversation\n");
}

std::string ChatCommands::quit(const std::string& /*rest*/) {
  is_over_ = true;
  return cat("the end, after ", session_.messages().size() / 2, " questions\n");
}

}  // namespace kvsmith
