#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/files.h"
#include "core/text.h"
#include "report/report.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::string_view kMetrics = "metrics.jsonl";
constexpr uint64_t kLargestEvaluation = uint64_t{1} << 20;

/// Numbers are of at least 0, but for kAnyNumber: rounding makes a divergence of 0 negative. Of a
/// text that is not given there is a default.
enum class Kind { kText, kTextIfGiven, kNumber, kNumberOrNothing, kAnyNumber };

// Charts and tables have room for these. Only a model that has diverged has such a perplexity, and
// no model has positions for such a context.
constexpr double kLargest = 1e60, kLongest = 1 << 28;

struct Needed {
  const char* pointer;  ///< JSON pointer
  Kind kind;
  double most = kLargest;  ///< of a number
};

constexpr std::array<Needed, 20> kNeeded = {{
    {"/name", Kind::kText},
    {"/architecture", Kind::kText},
    {"/corpus", Kind::kText},
    {"/split", Kind::kText},
    {"/protocol", Kind::kText},
    {"/parameters", Kind::kNumber},
    {"/tokens_seen", Kind::kNumber},
    {"/tokens", Kind::kNumber},
    {"/perplexity", Kind::kNumber},
    {"/context", Kind::kNumber, kLongest},
    {"/stride", Kind::kNumberOrNothing},
    {"/bits_per_byte", Kind::kNumberOrNothing},
    {"/unigram_perplexity", Kind::kNumberOrNothing},
    {"/cache/dtype", Kind::kTextIfGiven},
    {"/cache/tokens", Kind::kNumberOrNothing},
    {"/cache/bytes_measured", Kind::kNumber},
    {"/cache/bytes_formula", Kind::kNumber},
    {"/cache/bytes_per_token", Kind::kNumber},
    {"/cache/bytes_at_8k", Kind::kNumber},
    {"/decode_vs_parallel_max_abs_diff", Kind::kNumberOrNothing},
}};

constexpr std::array<Needed, 17> kNeededOfMethods = {{
    {"/method/name", Kind::kText},
    {"/method/retention", Kind::kText},
    {"/method/codec_k", Kind::kText},
    {"/method/codec_v", Kind::kText},
    {"/method/depth_merge", Kind::kTextIfGiven},
    {"/method/budget_tokens", Kind::kNumber},
    {"/resident/mean_bytes", Kind::kNumber},
    {"/resident/max_bytes", Kind::kNumber},
    {"/resident/peak_bytes", Kind::kNumber},
    {"/resident/payload", Kind::kNumber},
    {"/resident/codec_metadata", Kind::kNumber},
    {"/resident/index", Kind::kNumber},
    {"/resident/policy_state", Kind::kNumber},
    {"/resident/read_bytes_per_token", Kind::kNumber},
    {"/perplexity_full", Kind::kNumber},
    {"/kl_to_full", Kind::kAnyNumber},
    {"/top1_agreement", Kind::kNumber},
}};

constexpr const char* kRemedy =
    "leave the file out, or make it anew with `kvsmith evaluate --json`";

[[noreturn]] void bad(const std::string& where, const std::string& what, std::string remedy = {}) {
  throw Error(ExitCode::kBadData, {.what = what, .where = where, .remedy = std::move(remedy)});
}

/// Parses one value, of modest depth because later code walks it recursively. `first_line` is where
/// `text` begins in `path`.
Json parse(std::string_view text, const fs::path& path, int64_t first_line) {
  constexpr int kDeepest = 16;
  const auto shallow = [&](int depth, Json::parse_event_t, const Json&) {
    if (depth > kDeepest) bad(path.string(), cat("JSON is nested deeper than ", kDeepest));
    return true;
  };
  try {
    return Json::parse(text, shallow);
  } catch (const Json::parse_error& e) {
    const auto at = text.substr(0, std::min<size_t>(text.size(), e.byte));
    bad(cat(path.string(), ":", first_line + std::ranges::count(at, '\n')),
        cat("is not JSON at byte ", e.byte, " of the value"));
  } catch (const Json::out_of_range&) {
    bad(cat(path.string(), ":", first_line), "has a number too large for a double");
  }
}

/// "cache.bytes_measured" of "/cache/bytes_measured".
std::string dotted(std::string_view pointer) {
  std::string key(pointer.substr(1));
  std::ranges::replace(key, '/', '.');
  return key;
}

void expect_key(const Json& evaluation, const Needed& needed, const std::string& where) {
  const Json::json_pointer at(needed.pointer);
  const bool there = evaluation.contains(at);
  const Json value = there ? evaluation.at(at) : Json();
  const std::string key = where + ": " + dotted(needed.pointer);
  if (needed.kind == Kind::kTextIfGiven && !there) return;
  if (needed.kind == Kind::kText || needed.kind == Kind::kTextIfGiven) {
    if (!value.is_string()) bad(key, there ? "expected a text" : "is missing", kRemedy);
  } else if (value.is_null()) {
    if (needed.kind != Kind::kNumberOrNothing)
      bad(key, there ? "is null, expected a finite number" : "is missing", kRemedy);
  } else if (!value.is_number()) {
    bad(key, cat("found ", value.dump(), ", expected a number"), kRemedy);
  } else if (value.get<double>() < 0 && needed.kind != Kind::kAnyNumber) {
    bad(key, cat("found ", value.dump(), ", expected a number of at least 0"), kRemedy);
  } else if (std::abs(value.get<double>()) > needed.most) {
    bad(key,
        cat("found ", value.dump(), ", expected a number of at most ", Json(needed.most).dump()),
        kRemedy);
  }
}

/// Expects a list, where `evaluation` has `pointer` at all, of which every item `is_good`.
template <class IsGood>
void expect_list(const Json& evaluation,
                 const char* pointer,
                 const IsGood& is_good,
                 const std::string& expected,
                 const std::string& where) {
  const Json::json_pointer at(pointer);
  const Json list = evaluation.contains(at) ? evaluation.at(at) : Json::array();
  if (!list.is_array() || !std::ranges::all_of(list, is_good))
    bad(where + ": " + dotted(pointer), "expected " + expected, kRemedy);
}

void expect_evaluation(const Json& evaluation, const std::string& where) {
  if (!evaluation.is_object())
    bad(where, cat("found ", evaluation.type_name(), ", expected an object"), kRemedy);
  for (const Needed& needed : kNeeded) expect_key(evaluation, needed, where);
  expect_list(
      evaluation, "/cache/lengths",
      [](const Json& at) {
        return at.is_object() && at.value("tokens", Json()).is_number_unsigned() &&
               at.value("bytes_measured", Json()).is_number_unsigned();
      },
      "objects with counts of tokens and bytes_measured", where);
  expect_list(
      evaluation, "/probes",
      [](const Json& probe) {
        return probe.is_object() && probe.value("task", Json()).is_string() &&
               probe.value("length", Json()).is_number() &&
               probe.value("depth", Json()).is_number() &&
               probe.value("token_accuracy", Json()).is_number();
      },
      "objects with task, length, depth and token_accuracy", where);
  if (!evaluation.contains("method")) return;
  for (const Needed& needed : kNeededOfMethods) expect_key(evaluation, needed, where);
  const Json interval = evaluation.value("perplexity_interval", Json());
  if (!interval.is_array() || interval.size() != 2 || !interval[0].is_number() ||
      !interval[1].is_number())
    bad(where + ": perplexity_interval", "expected two numbers", kRemedy);
}

ReportRun read_evaluation(const fs::path& path) {
  ReportRun run{.evaluation = parse(read_file(path, kLargestEvaluation), path, 1), .curve = {}};
  expect_evaluation(run.evaluation, path.string());
  return run;
}

std::vector<LossPoint> read_metrics(const fs::path& path) {
  const std::string text = read_file(path);
  std::vector<LossPoint> curve;
  int64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.empty()) continue;
    const bool torn = end == text.size();
    if (torn && !Json::accept(line)) break;

    const Json entry = parse(line, path, number);
    const std::string where = cat(path.string(), ":", number);
    const auto number_of = [&](const char* key) -> std::optional<double> {
      if (!entry.is_object() || !entry.contains(key)) return std::nullopt;
      const Json& value = entry.at(key);
      if (!value.is_null() && !value.is_number()) {
        bad(where + ": " + key, cat("found ", value.dump(), ", expected a number"));
      }
      if (value.is_number() && std::abs(value.get<double>()) > kLargest) {
        bad(where + ": " + key,
            cat("found ", value.dump(), ", expected a number of at most ", Json(kLargest).dump()));
      }
      return value.is_null() ? std::nullopt : std::optional(value.get<double>());
    };
    const auto whole = [&](const char* key) {
      const auto value = number_of(key);
      if (!value || *value < 0 || *value > 1e18) {
        bad(where + ": " + key, "is missing or not a whole number of at least 0");
      }
      return static_cast<int64_t>(*value);
    };
    const int64_t step = whole("step"), tokens = whole("tokens");
    while (!curve.empty() && curve.back().step >= step) curve.pop_back();
    // A loss that was not finite is written as null.
    const auto loss = number_of("loss");
    if (loss) curve.push_back({step, tokens, *loss, number_of("validation_loss")});
  }
  return curve;
}

/// Whether `name` is one that a sweep gives, "gqa-h2o-0.5-model-model-512-0123456789ab.json".
bool is_of_sweep(const std::string& name) {
  constexpr std::string_view kEnding = ".json";
  constexpr size_t kDigits = 12;
  if (!name.ends_with(kEnding) || name.size() < kDigits + 1 + kEnding.size()) return false;
  const std::string_view hash =
      std::string_view(name).substr(name.size() - kEnding.size() - kDigits - 1, kDigits + 1);
  return hash[0] == '-' && hash.find_first_not_of("0123456789abcdef", 1) == hash.npos;
}

/// The evaluations of a run or a sweep. A directory with neither of their names may hold files that
/// were named by hand.
std::vector<fs::path> evaluations_in(const fs::path& directory) {
  std::vector<fs::path> found, others;
  std::error_code error;
  for (fs::directory_iterator at(directory, error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename().string();
    if (!name.ends_with(".json")) continue;
    const bool known = name.starts_with("evaluation") || is_of_sweep(name);
    (known ? found : others).push_back(at->path());
  }
  if (error) {
    throw Error(
        ExitCode::kIo,
        {.what = "cannot list: " + error.message(), .where = directory.string(), .remedy = {}});
  }
  if (found.empty()) found.swap(others);
  if (found.empty()) {
    throw Error(ExitCode::kMissingInput,
                {.what = "holds no evaluation",
                 .where = directory.string(),
                 .remedy = "write one there with `kvsmith evaluate --json` or `--sweep`"});
  }
  std::ranges::sort(found);
  return found;
}

}  // namespace

std::vector<ReportRun> read_runs(const std::vector<fs::path>& paths,
                                 const std::function<void(const fs::path&)>& on_repeat) {
  if (paths.empty()) {
    throw Error(ExitCode::kUsage, {.what = "no runs to report on",
                                   .where = {},
                                   .remedy = "name run directories or evaluation JSON files"});
  }
  std::vector<ReportRun> runs;
  std::set<fs::path> seen;
  for (const auto& path : paths) {
    const bool is_directory = fs::is_directory(path);
    const size_t first = runs.size();
    for (const auto& file : is_directory ? evaluations_in(path) : std::vector{path}) {
      if (seen.insert(fs::weakly_canonical(file)).second) {
        runs.push_back(read_evaluation(file));
      } else if (on_repeat) {
        on_repeat(file);
      }
    }
    if (runs.size() == first) continue;
    const fs::path metrics = (is_directory ? path : path.parent_path()) / kMetrics;
    if (fs::exists(metrics)) runs[first].curve = read_metrics(metrics);
  }
  return runs;
}

}  // namespace kvsmith
