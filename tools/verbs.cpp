#include "tools/verbs.h"

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <new>

#include <CLI/CLI.hpp>
#include <c10/util/Exception.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

int report(ExitCode code, const std::string& text) {
  std::cerr << "kvsmith: error: " << text << std::endl;
  return static_cast<int>(code);
}

ExitCode exit_code_of(const std::error_code& error) {
  if (error == std::errc::permission_denied || error == std::errc::operation_not_permitted) {
    return ExitCode::kPermission;
  }
  if (error == std::errc::no_such_file_or_directory) return ExitCode::kMissingInput;
  if (error == std::errc::file_exists || error == std::errc::not_a_directory) {
    return ExitCode::kCannotCreate;
  }
  return ExitCode::kIo;
}

/// CLI11's own message, with the nearest verb or flag where one was misspelt.
std::string usage_error(const CLI::App& app,
                        const CLI::ParseError& error,
                        int argc,
                        const char* const* argv) {
  std::string text = error.what();
  const CLI::App* at = &app;
  std::string path = app.get_name();
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    std::vector<std::string> known;
    if (word.starts_with("--")) {
      for (const auto* option : at->get_options()) {
        for (const auto& name : option->get_lnames()) known.push_back("--" + name);
      }
      const std::string name = word.substr(0, word.find('='));
      if (std::ranges::find(known, name) == known.end())
        return text + "; " + suggestion(name, known);
    } else if (!at->get_subcommands({}).empty()) {
      const CLI::App* next = nullptr;
      for (const auto* verb : at->get_subcommands({})) {
        known.push_back(verb->get_name());
        if (verb->get_name() == word) next = verb;
      }
      if (!next) return cat("no verb \"", word, "\"; ", suggestion(word, known));
      at = next;
      path += " " + word;
    }
  }
  return cat(text, "; see `", path, " --help`");
}

}  // namespace

void add_verbs(CLI::App& app, int& exit_code) {
  app.require_subcommand(1);
  add_tokenizer(app);
  add_data(app);
  add_import(app);
  add_convert(app);
  add_train(app, exit_code);
  add_evaluate(app);
  add_logits(app);
  add_head_distances(app);
  add_calibrate(app);
  add_generate(app);
  add_chat(app, exit_code);
  add_merge(app);
  add_serve(app);
  add_export(app);
  add_fetch(app);
  add_checkpoint(app, exit_code);
  add_estimate(app);
  add_speed(app);
  add_report(app);
  add_env(app);
  add_help(app);
  add_version(app);
  add_completion(app);
  add_reference(app);
}

int run(int argc, const char* const* argv) {
  int exit_code = 0;
  CLI::App app("Trains and judges language models whose KV cache is small.", "kvsmith");
  app.footer(
      "Example, from text to report:\n"
      "  kvsmith tokenizer train texts/ --vocab-size 4096 --output tokenizer.model\n"
      "  kvsmith data build texts/ --valid valid.txt --tokenizer tokenizer.model --output "
      "corpus.h5\n"
      "  kvsmith train configs/shakespeare-gqa.toml --set data.corpus=corpus.h5 --output runs/gqa\n"
      "  kvsmith evaluate runs/gqa --corpus corpus.h5 --json runs/gqa/evaluation.json\n"
      "  kvsmith report runs/gqa --output report.html\n"
      "`kvsmith VERB --help` tells more of each verb. Exit codes: 0 done, 64 usage, 65 bad data,\n"
      "66 missing input, 70 internal, 71 memory, 73 cannot create, 74 disk, 77 permission,\n"
      "78 configuration, 80 numerical, 130/143 interrupted after saving.");
  app.set_version_flag("--version", "kvsmith " KVSMITH_VERSION, "Print the version and exit");
  add_verbs(app, exit_code);
  try {
    app.parse(argc, argv);
    if (!std::cout.flush()) return report(ExitCode::kIo, "cannot write to standard output");
    return exit_code;
  } catch (const CLI::Success& asked) {  // --help
    return app.exit(asked);
  } catch (const CLI::ParseError& error) {
    return report(ExitCode::kUsage, usage_error(app, error, argc, argv));
  } catch (const Error& error) {
    return report(error.code(), error.what());
  } catch (const c10::OutOfMemoryError& error) {
    return report(ExitCode::kOutOfMemory,
                  cat("out of device memory: ", error.what_without_backtrace()));
  } catch (const std::bad_alloc&) {
    return report(ExitCode::kOutOfMemory,
                  "out of memory; lower micro_batch_size, batch or context");
  } catch (const std::filesystem::filesystem_error& error) {
    return report(exit_code_of(error.code()), error.what());
  } catch (const nlohmann::json::exception& error) {  // a file of ours that somebody edited
    return report(ExitCode::kBadData, error.what());
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    if (text.find("DefaultCPUAllocator") != std::string::npos) {
      return report(ExitCode::kOutOfMemory,
                    cat(text, "; lower micro_batch_size, batch or context"));
    }
    return report(ExitCode::kInternal, cat("LibTorch: ", error.what_without_backtrace()));
  } catch (const std::exception& error) {
    return report(ExitCode::kInternal, error.what());
  }
}

}  // namespace kvsmith
