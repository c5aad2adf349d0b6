#include "train/run_directory.h"

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
  CheckpointInfo info = inspect_checkpoint(fs::canonical(options.resume), true);
  if (!info.complete) {
    throw Error(ExitCode::kBadData, {info.problem, options.resume, "choose another checkpoint"});
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
