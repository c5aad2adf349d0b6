#include "inference/generate.h"

#include <cmath>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cache/cache_options.h"
#include "checkpoints/adapters.h"
#include "core/error.h"
#include "core/files.h"
#include "core/text.h"
#include "inference/chat.h"
#include "tools/model_flags.h"
#include "tools/sampling_flags.h"
#include "tools/verbs.h"

namespace kvsmith {
namespace {

struct Flags {
  ModelFlags model;
  std::string prompt;
  std::filesystem::path prompts;
  GenerateOptions options;
  bool chat = false, verbose = false, json = false;
  std::optional<std::string> system;
  std::vector<std::string> adapters, cache;
};

/// One prompt a line; a file that ends in .jsonl has one JSON string a line.
std::vector<std::string> read_prompts(const std::filesystem::path& path) {
  std::vector<std::string> out;
  std::istringstream lines(read_file(path));
  for (std::string line; std::getline(lines, line);) {
    if (path.extension() != ".jsonl") {
      out.push_back(line);
      continue;
    }
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_string()) {
      throw Error(ExitCode::kBadData,
                  {"not a JSON string", cat(path.string(), ":", out.size() + 1), "write \"...\""});
    }
    out.push_back(json.get<std::string>());
  }
  if (out.empty())
    throw Error(ExitCode::kBadData, {"no prompts", path.string(), "write one a line"});
  return out;
}

void print_stats(const GenerateStats& stats) {
  const auto speed = [](int64_t tokens, double seconds) {
    return std::round(10 * static_cast<double>(tokens) / std::max(seconds, 1e-9)) / 10;
  };
  std::cerr << stats.prompt_tokens << " prompt tokens at "
            << speed(stats.prompt_tokens, stats.prefill_seconds) << " tokens/s, "
            << stats.new_tokens << " new at " << speed(stats.new_tokens, stats.decode_seconds)
            << " tokens/s, KV cache " << stats.cache_bytes << " bytes used, "
            << stats.cache_bytes_reserved << " reserved\n";
}

/// Their token ids; of a chat, what the answers to them end with goes into `options`.
std::vector<std::vector<int32_t>> prompt_ids(const LoadedModel& model,
                                             const std::vector<std::string>& prompts,
                                             const Flags& flags,
                                             GenerateOptions& options) {
  std::vector<std::vector<int32_t>> out;
  if (!flags.chat) {
    for (const auto& prompt : prompts) out.push_back(text_prompt(model, prompt));
    return out;
  }
  const Chat chat(model, flags.system);
  chat.end_with_answer(options);
  for (const auto& prompt : prompts) out.push_back(chat.prompt({{"user", prompt}}));
  return out;
}

/// With `heading`, a line before the texts, where there are several models.
void generate_with(LoadedModel& model,
                   const std::vector<std::string>& prompts,
                   const Flags& flags,
                   const std::string& heading) {
  auto options = flags.options;
  const auto ids = prompt_ids(model, prompts, flags, options);
  // a chat shows answers alone
  const auto shown = flags.chat ? std::vector<std::string>(prompts.size()) : prompts;
  const bool streams = flags.prompts.empty() && !flags.json;
  if (!flags.json) std::cout << heading;
  bool begun = false;  // the prompt is shown once the model has taken it
  const auto show = [&](std::string_view piece) {
    std::cout << (begun ? "" : shown[0]) << piece << std::flush;
    begun = true;
  };
  GenerateStats stats;
  const auto results = generate(model, ids, options, &stats, [&](size_t, std::string_view piece) {
    if (streams) show(piece);
  });
  if (streams) show("\n");
  for (size_t i = 0; i < results.size() && !streams; ++i) {
    nlohmann::ordered_json json;
    if (!flags.adapters.empty()) json["adapter"] = model.name;
    if (!flags.chat) json["prompt"] = prompts[i];
    json["text"] = results[i].text;
    json["finish"] = results[i].finish;
    json["tokens"] = results[i].tokens;
    std::cout << (flags.json ? json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)
                             : cat("[", i, "] ", shown[i], results[i].text))
              << "\n";
  }
  if (flags.verbose) print_stats(stats);
}

void generate_it(Flags& flags) {
  const auto prompts =
      flags.prompts.empty() ? std::vector<std::string>{flags.prompt} : read_prompts(flags.prompts);
  if (!flags.cache.empty()) flags.options.cache = cache_config_of(flags.cache);
  LoadedModel model = load(flags.model);
  auto adapted = load_adapters(model, flags.adapters);
  if (adapted.empty()) generate_with(model, prompts, flags, "");
  for (auto& one : adapted)
    generate_with(one, prompts, flags, adapted.size() > 1 ? one.name + ":\n" : "");
}

}  // namespace

void add_generate(CLI::App& app) {
  auto* verb = app.add_subcommand("generate", "Continue a text, or answer it");
  auto flags = std::make_shared<Flags>();
  add_model_flags(*verb, flags->model);
  auto* prompt = verb->add_option("--prompt,-p", flags->prompt, "text to continue");
  verb->add_option("--prompts", flags->prompts,
                   "file with one prompt a line (.jsonl: one JSON string a line)")
      ->excludes(prompt);
  auto* chat =
      verb->add_flag("--chat", flags->chat,
                     "answer each prompt, in the chat template of the model; show answers only");
  verb->add_option("--system", flags->system, "system prompt instead of the template's; \"\": none")
      ->needs(chat);
  add_sampling_flags(*verb, flags->options);
  verb->add_option("--stop", flags->options.stop, "text that ends the output; may be repeated")
      ->take_all();
  add_adapter_flag(*verb, flags->adapters, "; each answers in turn");
  add_cache_flag(*verb, flags->cache);
  verb->add_flag("--json", flags->json, "one JSON object a prompt instead of streaming");
  verb->add_flag("--verbose,-v", flags->verbose, "speed and cache bytes on stderr");
  verb->footer(
      "Examples:\n"
      "  kvsmith generate runs/gqa --prompt \"To be, or not\" --temperature 0.8 --top-p 0.95 "
      "--verbose\n"
      "  kvsmith generate runs/gqa --prompts prompts.txt --temperature 0 --json\n"
      "  kvsmith generate smollm2 --chat --prompt \"Why is the sky blue?\" --temperature 0.2");
  verb->callback([flags] { generate_it(*flags); });
}

}  // namespace kvsmith
