#include "train/run_directory.h"

#include "checkpoints/own_checkpoint.h"
#include "core/error.h"
#include "core/files.h"
#include "core/text.h"

namespace kvsmith {

namespace fs = std::filesystem;

std::optional<CheckpointInfo> checkpoint_to_continue(
    const CheckpointStore& store,
    const RunOptions& options,
    const std::function<void(const std::string&)>& note) {
  const fs::path& run = options.output;
  if (options.resume == "auto") {
    return store.newest([&](const CheckpointInfo& bad) {
      note(cat("ignored ", bad.path.filename().string(), ": ", bad.problem));
    });
  }
  const auto there = store.list();
  if (options.resume == "never") {
    if (options.force || (there.empty() && !fs::exists(run / "metrics.jsonl"))) return std::nullopt;
    throw Error(ExitCode::kCannotCreate,
                {cat("holds an earlier run with ", there.size(), " checkpoints"), run.string(),
                 "resume it, or start over with --force"});
  }
  if (!fs::exists(options.resume)) {
    throw Error(ExitCode::kMissingInput, {"no such checkpoint", options.resume,
                                          "give auto, never, or a checkpoint of a run"});
  }
  const auto path = own_checkpoint(options.resume).value_or(options.resume);
  CheckpointInfo info = inspect_checkpoint(fs::canonical(path), true);
  if (!info.complete) {
    throw Error(ExitCode::kBadData, {info.problem, path.string(), "choose another checkpoint"});
  }
  if (!info.state.contains("trainer")) {
    throw Error(ExitCode::kUsage, {"a model, and not a checkpoint of a run", path.string(),
                                   "begin a run from it with train.init_from"});
  }
  if (!there.empty() && there.front().step > info.step && !options.force) {
    throw Error(
        ExitCode::kCannotCreate,
        {cat("holds checkpoints up to step ", there.front().step, ", newer than step ", info.step),
         run.string(), "choose another --output, or drop them with --force"});
  }
  return info;
}

void drop_newer(const CheckpointStore& store, const RunOptions& options, int64_t step) {
  for (const auto& info : store.list())
    if (info.step > step) remove_durably(info.path);
  if (options.resume != "never") return;
  for (const char* name : {"best", "latest", "metrics.jsonl", "tensorboard", "evaluation.json"})
    remove_durably(options.output / name);
}

}  // namespace kvsmith
