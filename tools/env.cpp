#include <iostream>
#include <memory>

#include <CLI/CLI.hpp>
#include <sys/utsname.h>
#include <torch/cuda.h>
#include <torch/types.h>
#include <unistd.h>

#include "configs/run_config.h"
#include "core/error.h"
#include "core/files.h"
#include "core/text.h"
#include "models/mixer.h"
#include "tools/verbs.h"
#include "train/device.h"

namespace kvsmith {
namespace {

/// "g++ 12.2.0", "Clang 19.1.7"; g++ leaves its name out.
std::string compiler() {
  const std::string version = __VERSION__;
  return (version[0] >= '0' && version[0] <= '9' ? "g++ " : "") + version;
}

void print_environment() {
  configure_runtime(TrainConfig{});
  const auto runtime = runtime_environment(torch::cuda::is_available() ? at::kCUDA : at::kCPU);
  utsname system{};
  uname(&system);
  const double memory =
      static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
  std::vector<std::string> mixers;
  for (const auto& kind : mixer_kinds()) mixers.push_back(kind.name);
  std::cout << "kvsmith      " << KVSMITH_VERSION << "\n"
            << "system       " << system.sysname << " " << system.release << " " << system.machine
            << "\n"
            << "compiler     " << compiler() << "\n"
            << "LibTorch     " << runtime.at("libtorch").get<std::string>() << "\n"
            << "threads      " << runtime.at("threads") << "\n"
            << "CPU kernels  " << runtime.at("cpu_capability").get<std::string>() << "\n"
            << "memory       " << human_bytes(memory) << "\n"
            << "GPUs         " << static_cast<int>(torch::cuda::device_count()) << "\n"
            << "fp32 matmul  " << human_flop(measure_peak_flops(at::kCPU, at::kFloat)) << "/s\n"
            << "bf16 matmul  " << human_flop(measure_peak_flops(at::kCPU, at::kBFloat16)) << "/s\n"
            << "free disk    " << human_bytes(static_cast<double>(free_bytes("."))) << "\n"
            << "mixers       " << join(mixers) << "\n";
}

void print_help(const CLI::App& app, const std::vector<std::string>& words) {
  const CLI::App* at = &app;
  std::string path = app.get_name();
  for (const auto& word : words) {
    std::vector<std::string> known;
    const CLI::App* next = nullptr;
    for (const auto* verb : at->get_subcommands({})) {
      known.push_back(verb->get_name());
      if (verb->get_name() == word) next = verb;
    }
    if (!next) {
      throw Error(ExitCode::kUsage,
                  {cat("no verb \"", word, "\""), at == &app ? "" : path, suggestion(word, known)});
    }
    at = next;
    path += " " + word;
  }
  // not at->help(), which would be that of the verb "help"
  std::cout << at->get_formatter()->make_help(at, path, CLI::AppFormatMode::Normal);
}

/// Verbs, their verbs and flags, so that the script cannot fall behind the program.
std::string bash_cases(const CLI::App& app, const std::string& path) {
  std::string words;
  for (const auto* verb : app.get_subcommands({})) words += verb->get_name() + " ";
  for (const auto* option : app.get_options()) {
    for (const auto& name : option->get_lnames()) words += "--" + name + " ";
  }
  std::string out = cat("    \"", path, "\") words=\"", words, "\" ;;\n");
  for (const auto* verb : app.get_subcommands({}))
    out += bash_cases(*verb, path.empty() ? verb->get_name() : path + " " + verb->get_name());
  return out;
}

void print_completion(const CLI::App& app) {
  std::cout << "# bash completion of kvsmith; load it with: source <(kvsmith completion)\n"
               "_kvsmith() {\n"
               "  local word path=\"\" words=\"\" current=\"${COMP_WORDS[COMP_CWORD]}\"\n"
               "  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n"
               "    [[ $word == [a-z]* && $word != */* && $word != *.* ]] || break\n"
               "    path=\"${path:+$path }$word\"\n"
               "  done\n"
               "  case \"$path\" in\n"
            << bash_cases(app, "")
            << "  esac\n"
               "  COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
               "  [[ ${#COMPREPLY[@]} -gt 0 ]] || COMPREPLY=($(compgen -f -- \"$current\"))\n"
               "}\n"
               "complete -o filenames -F _kvsmith kvsmith\n";
}

}  // namespace

void add_env(CLI::App& app) {
  auto* verb = app.add_subcommand("env", "What a bug report should say of this machine");
  verb->callback([] { print_environment(); });
}

void add_version(CLI::App& app) {
  auto* verb = app.add_subcommand("version", "The version");
  verb->callback([] { std::cout << "kvsmith " << KVSMITH_VERSION << "\n"; });
}

void add_help(CLI::App& app) {
  auto* verb = app.add_subcommand("help", "What `kvsmith VERB --help` prints");
  auto words = std::make_shared<std::vector<std::string>>();
  verb->add_option("verb", *words, "such as train, or data build; none: the program's help");
  verb->callback([&app, words] { print_help(app, *words); });
}

void add_completion(CLI::App& app) {
  auto* verb = app.add_subcommand("completion", "A completion script for bash");
  verb->footer("Example:\n  source <(kvsmith completion)");
  verb->callback([&app] { print_completion(app); });
}

void add_reference(CLI::App& app) {
  auto* verb =
      app.add_subcommand("reference", "Every configuration key, as in docs/configuration.md");
  verb->callback([] { std::cout << configuration_reference(); });
}

}  // namespace kvsmith
