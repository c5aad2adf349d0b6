#include "checkpoints/store.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>

#include "checkpoints/tokenizer_file.h"
#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/json_node.h"
#include "core/text.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int kManifestFormat = 1;
constexpr const char* kPrefix = "step-";

std::optional<int64_t> step_of(const fs::path& path) {
  const std::string name = path.filename().string();
  if (!name.starts_with(kPrefix)) return std::nullopt;
  int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto result = std::from_chars(name.data() + std::string(kPrefix).size(), end, step);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return step;
}

/// Compares the files of `directory` with its manifest; throws Error (65) at the first difference.
void check_manifest(CheckpointInfo& info, bool check_hashes) {
  const fs::path path = info.path / "manifest.json";
  const auto fail = [&](const std::string& what) {
    throw Error(ExitCode::kBadData, {what, info.path.string(), "another checkpoint may be whole"});
  };
  if (!fs::exists(path)) fail("no manifest.json: the save did not finish");
  constexpr int kMostLevels = 32;
  const auto parsed = [&](const fs::path& file, uint64_t most_bytes) {
    return parse_ordered_json(read_file(file, most_bytes), kMostLevels, file.string());
  };
  const Json manifest = parsed(path, 1 << 20);
  if (manifest.at("format").get<int>() > kManifestFormat) {
    fail(cat("manifest format ", manifest.at("format").get<int>(), " is newer than this program"));
  }
  for (const auto& [name, entry] : manifest.at("files").items()) {
    const fs::path file = info.path / name;
    if (!fs::exists(file)) fail(name + " is missing");
    const auto bytes = fs::file_size(file), expected = entry.at("bytes").get<uint64_t>();
    if (bytes != expected) fail(cat(name, " has ", bytes, " bytes, the manifest says ", expected));
    if (check_hashes && sha256_of_file(file) != entry.at("sha256").get<std::string>()) {
      fail(name + " does not match its SHA-256");
    }
    info.bytes += bytes;
  }
  info.step = manifest.at("step").get<int64_t>();
  info.state = parsed(info.path / "state.json", 1 << 26);
}

}  // namespace

void write_manifest(const fs::path& directory, int64_t step) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (entry.path().filename() != "manifest.json") files.push_back(entry.path());
  }
  std::ranges::sort(files);
  Json manifest = {{"format", kManifestFormat}, {"step", step}, {"files", Json::object()}};
  for (const auto& file : files) {
    manifest["files"][file.filename().string()] = {{"bytes", fs::file_size(file)},
                                                   {"sha256", sha256_of_file(file)}};
  }
  write_file(directory / "manifest.json", manifest.dump(2) + "\n");
}

std::string checkpoint_name(int64_t step) {
  std::array<char, 32> name{};
  std::snprintf(name.data(), name.size(), "%s%09lld", kPrefix, static_cast<long long>(step));
  return name.data();
}

CheckpointInfo inspect_checkpoint(const fs::path& directory, bool check_hashes) {
  CheckpointInfo info;
  info.path = directory;
  info.step = step_of(directory).value_or(0);
  try {
    check_manifest(info, check_hashes);
    info.complete = true;
  } catch (const Error& error) {
    info.problem = error.problem().what;
  } catch (const std::exception& error) {  // JSON of the wrong form, a file that vanished
    info.problem = error.what();
  }
  return info;
}

CheckpointStore::CheckpointStore(fs::path run) : run_(std::move(run)) {}

fs::path CheckpointStore::save(const Snapshot& snapshot, int64_t step, bool is_best) {
  const fs::path name = checkpoint_name(step);
  AtomicDirectory directory(run_ / name);
  const fs::path& inside = directory.path();
  save_tensors(inside / "model.safetensors", snapshot.weights, {{"format", "pt"}});
  save_tensors(inside / "optimizer.safetensors", snapshot.optimizer, {});
  write_file(inside / "config.toml", to_toml(snapshot.config));
  write_file(inside / "state.json", snapshot.state.dump(2) + "\n");
  write_tokenizer(inside, snapshot.tokenizer);
  write_manifest(inside, step);
  directory.commit();
  replace_link(run_ / "latest", name);
  if (is_best) replace_link(run_ / "best", name);
  return run_ / name;
}

void CheckpointStore::mend_links(const CheckpointInfo& newest) {
  if (!fs::equivalent(newest.path.parent_path(), run_)) return;
  const auto point = [&](const char* link, const fs::path& name) {
    std::error_code none;
    if (fs::read_symlink(run_ / link, none) != name) replace_link(run_ / link, name);
  };
  point("latest", newest.path.filename());
  const auto all = list();
  const auto lowest = newest.state.find("best_validation_loss");
  const auto best = std::ranges::find_if(all, [&](const CheckpointInfo& info) {
    return lowest != newest.state.end() && info.complete &&
           info.state.value("validation_loss", Json()) == *lowest;
  });
  if (best != all.end())
    point("best", best->path.filename());
  else
    remove_durably(run_ / "best");
}

std::vector<CheckpointInfo> CheckpointStore::list() const {
  std::vector<CheckpointInfo> found;
  if (!fs::is_directory(run_)) return found;
  for (const auto& entry : fs::directory_iterator(run_)) {
    if (step_of(entry.path()) && entry.is_directory() && !entry.is_symlink()) {
      found.push_back(inspect_checkpoint(entry.path(), false));
    }
  }
  std::ranges::sort(found, std::greater{}, &CheckpointInfo::step);
  return found;
}

std::optional<CheckpointInfo> CheckpointStore::newest(
    const std::function<void(const CheckpointInfo&)>& on_skip) const {
  std::vector<std::string> problems;
  for (const auto& candidate : list()) {
    CheckpointInfo info = inspect_checkpoint(candidate.path, true);
    if (info.complete) return info;
    problems.push_back(info.path.filename().string() + ": " + info.problem);
    if (on_skip) on_skip(info);
  }
  if (problems.empty()) return std::nullopt;
  throw Error(ExitCode::kBadData, {"no checkpoint is usable: " + join(problems, "; "),
                                   run_.string(), "start over in another directory"});
}

void CheckpointStore::retire(const Retention& retention, int64_t step) {
  std::error_code none;
  const fs::path best = fs::read_symlink(run_ / "best", none);
  int64_t kept = 0;
  for (const auto& info : list()) {
    // what is broken, or of a future that the run has gone back from, is neither counted nor
    // touched
    if (!info.complete || info.step > step) continue;
    const bool milestone = retention.keep_every > 0 && info.step % retention.keep_every == 0;
    const bool is_best = retention.keep_best && info.path.filename() == best;
    if (kept++ < std::max<int64_t>(1, retention.keep_last) || milestone || is_best) continue;
    remove_durably(info.path);
  }
}

}  // namespace kvsmith
