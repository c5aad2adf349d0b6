#include <filesystem>
#include <iostream>
#include <memory>

#include <CLI/CLI.hpp>

#include "checkpoints/export.h"
#include "checkpoints/export_gguf.h"
#include "checkpoints/export_peft.h"
#include "checkpoints/store.h"
#include "core/error.h"
#include "core/text.h"
#include "tools/console.h"
#include "tools/model_flags.h"
#include "tools/verbs.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

struct ExportFlags {
  ModelFlags model;
  std::string format = "hf", gguf_type = "f32";
  fs::path output;
  bool force = false, quiet = false;
};

struct StoreFlags {
  fs::path run;
  bool json = false;
};

void export_it(const ExportFlags& flags) {
  Console console(flags.quiet);
  if (flags.format == "peft") {
    const uint64_t bytes = export_peft(flags.model.checkpoint, flags.output, flags.force);
    console.note(cat("wrote ", flags.output.string(), ", ", human_bytes(static_cast<double>(bytes)),
                     "; read back equal"));
    return;
  }
  const LoadedModel model = load(flags.model);
  const GgmlType type = gguf_export_type(flags.gguf_type);
  const auto report = flags.format == "hf"     ? export_hf(model, flags.output, flags.force)
                      : flags.format == "lckv" ? export_lckv(model, flags.output, flags.force)
                      : flags.format == "gguf" ? export_gguf(model, flags.output, type, flags.force)
                                               : export_kvsmith(model, flags.output, flags.force);
  console.note(cat("wrote ", flags.output.string(), ", ",
                   human_bytes(static_cast<double>(report.bytes)),
                   "; read back, largest logit difference ", report.max_logit_difference));
}

/// The checkpoints of a run, or the one that `path` is.
std::vector<CheckpointInfo> checkpoints_of(const fs::path& path) {
  if (!fs::exists(path)) {
    throw Error(ExitCode::kMissingInput,
                {"no such directory", path.string(), "give a run or a checkpoint"});
  }
  if (path.filename().string().starts_with("step-") || fs::exists(path / "manifest.json")) {
    return {inspect_checkpoint(fs::canonical(path), false)};
  }
  auto found = CheckpointStore(path).list();
  if (found.empty())
    throw Error(ExitCode::kMissingInput, {"no checkpoints", path.string(), "train one"});
  return found;
}

nlohmann::ordered_json to_json(const CheckpointInfo& info) {
  nlohmann::ordered_json json = {{"path", info.path.string()},
                                 {"step", info.step},
                                 {"complete", info.complete},
                                 {"bytes", info.bytes}};
  if (info.complete && info.state.contains("trainer"))
    json["tokens"] = info.state["trainer"].at("tokens");
  if (info.complete && info.state.contains("validation_loss"))
    json["validation_loss"] = info.state["validation_loss"];
  if (!info.complete) json["problem"] = info.problem;
  return json;
}

/// Prints every checkpoint; returns whether all are whole.
bool print(const StoreFlags& flags, bool check_hashes) {
  bool whole = true;
  for (auto info : checkpoints_of(flags.run)) {
    if (check_hashes) info = inspect_checkpoint(info.path, true);
    whole = whole && info.complete;
    const auto json = to_json(info);
    if (flags.json) {
      std::cout << json.dump() << "\n";
      continue;
    }
    std::cout << info.path.filename().string() << "  ";
    if (info.complete) {
      std::cout << (check_hashes ? "verified  " : "")
                << human_bytes(static_cast<double>(info.bytes));
      if (json.contains("tokens")) std::cout << "  " << json["tokens"] << " tokens";
      if (json.contains("validation_loss"))
        std::cout << "  validation loss " << json["validation_loss"];
      std::cout << "\n";
    } else {
      std::cout << "BAD: " << info.problem << "\n";
    }
  }
  return whole;
}

void add_store_verb(
    CLI::App& checkpoint, const char* name, const char* help, bool check_hashes, int& exit_code) {
  auto* verb = checkpoint.add_subcommand(name, help);
  auto flags = std::make_shared<StoreFlags>();
  verb->add_option("run", flags->run, "run directory or checkpoint")->required();
  verb->add_flag("--json", flags->json, "one JSON object a line");
  verb->callback([flags, check_hashes, &exit_code] {
    const bool whole = print(*flags, check_hashes);
    if (check_hashes && !whole) exit_code = static_cast<int>(ExitCode::kBadData);
  });
}

}  // namespace

void add_export(CLI::App& app) {
  auto* verb = app.add_subcommand("export", "Write a checkpoint for other programs");
  auto flags = std::make_shared<ExportFlags>();
  add_model_flags(*verb, flags->model);
  verb->add_option(
          "--format", flags->format,
          "hf: a folder for Hugging Face transformers; lckv: a folder for the LCKV authors' "
          "code, where layers share keys and values; gguf: one file for llama.cpp; kvsmith: one "
          "file for inference; peft: a folder with the adapter of a run alone")
      ->check(CLI::IsMember({"hf", "lckv", "gguf", "kvsmith", "peft"}))
      ->capture_default_str();
  verb->add_option("--gguf-type", flags->gguf_type, "of the matrices in a GGUF file")
      ->check(CLI::IsMember(gguf_export_types()))
      ->capture_default_str();
  verb->add_option("--output,-o", flags->output, "folder (hf, lckv, peft) or file (gguf, kvsmith)")
      ->required();
  verb->add_flag("--force", flags->force, "replace the output");
  verb->add_flag("--quiet,-q", flags->quiet, "no progress on stderr");
  verb->footer(
      "Examples:\n"
      "  kvsmith export runs/gqa --format hf --output exported/gqa\n"
      "  kvsmith export runs/gqa/best --format kvsmith --dtype bf16 --output gqa.safetensors\n"
      "  kvsmith export runs/gqa --format gguf --gguf-type q8_0 --output gqa.gguf");
  verb->callback([flags] { export_it(*flags); });
}

void add_checkpoint(CLI::App& app, int& exit_code) {
  auto* checkpoint = app.add_subcommand("checkpoint", "Checkpoints of a run");
  checkpoint->require_subcommand(1);
  checkpoint->footer(
      "Examples:\n  kvsmith checkpoint list runs/gqa\n  kvsmith checkpoint verify runs/gqa");
  add_store_verb(*checkpoint, "list", "List them, newest first", false, exit_code);
  add_store_verb(*checkpoint, "verify",
                 "Check every file against its SHA-256; exit code 65 when one is bad", true,
                 exit_code);
}

}  // namespace kvsmith
