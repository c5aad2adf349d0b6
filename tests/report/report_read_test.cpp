#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/files.h"
#include "report/report.h"
#include "tests/report/sample_runs.h"
#include "tests/support/temporary_directory.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

TEST(ReadRuns, FindsEvaluationAndCurveOfADirectoryAndOfAFile) {
  const TemporaryDirectory temporary;
  const fs::path directory = temporary / "a", file = temporary / "b.json";
  fs::create_directory(directory);
  write_file(directory / "evaluation.json", evaluation("a", "MHA", 512, 12).dump());
  write_file(directory / "metrics.jsonl",
             "{\"step\":1,\"tokens\":10,\"loss\":3.5,\"learning_rate\":0.1}\n"
             "{\"step\":2,\"tokens\":20,\"loss\":3.25,\"validation_loss\":3.5}\n");
  write_file(file, evaluation("b", "MQA", 64, 13).dump());

  const auto runs = read_runs({directory, file});
  ASSERT_EQ(runs.size(), 2);
  EXPECT_EQ(runs[0].evaluation["name"], "a");
  ASSERT_EQ(runs[0].curve.size(), 2);
  EXPECT_EQ(runs[0].curve[0].validation_loss, std::nullopt);
  EXPECT_EQ(runs[0].curve[1].tokens, 20);
  EXPECT_EQ(runs[0].curve[1].loss, 3.25);
  EXPECT_EQ(runs[0].curve[1].validation_loss, 3.5);
  EXPECT_EQ(runs[1].evaluation["name"], "b");
  EXPECT_TRUE(runs[1].curve.empty());
}

TEST(ReadRuns, TakesEveryEvaluationOfADirectoryAndShowsItsCurveOnce) {
  const TemporaryDirectory temporary;
  write_file(temporary / "evaluation.json", evaluation("long", "MHA", 512, 12).dump());
  write_file(temporary / "evaluation-256.json", evaluation("short", "MHA", 512, 13).dump());
  write_file(temporary / "metrics.jsonl", "{\"step\":1,\"tokens\":10,\"loss\":3.5}\n");
  const auto runs = read_runs({temporary.path()});
  ASSERT_EQ(runs.size(), 2);
  EXPECT_EQ(runs[0].evaluation["name"], "short");
  EXPECT_EQ(runs[0].curve.size() + runs[1].curve.size(), 1);
}

TEST(ReadRuns, ReadsAFileThatIsNamedTwiceOnceAndTellsOfIt) {
  const TemporaryDirectory temporary;
  const fs::path directory = temporary / "a", file = directory / "evaluation.json";
  fs::create_directory(directory);
  fs::create_directory_symlink("a", temporary / "link");
  write_file(file, evaluation("a", "MHA", 512, 12).dump());
  write_file(directory / "metrics.jsonl", "{\"step\":1,\"tokens\":10,\"loss\":3.5}\n");
  std::vector<fs::path> repeated;
  const auto runs = read_runs({directory, file, temporary / "link", directory / "." / ""},
                              [&](const fs::path& path) { repeated.push_back(path); });
  ASSERT_EQ(runs.size(), 1);
  EXPECT_EQ(runs[0].curve.size(), 1);
  EXPECT_EQ(repeated.size(), 3);
}

TEST(ReadRuns, LeavesOutTornLinesRepeatedStepsAndLossesThatAreNotNumbers) {
  const TemporaryDirectory temporary;
  write_file(temporary / "evaluation.json", evaluation("a", "MHA", 512, 12).dump());
  const std::string head =
      "{\"step\":1,\"tokens\":10,\"loss\":3}\n{\"step\":2,\"tokens\":20,\"loss\":4}\n"
      "{\"step\":3,\"tokens\":30,\"loss\":5}\n{\"step\":2,\"tokens\":20,\"loss\":2}\n\n"
      "{\"step\":4,\"tokens\":40,\"loss\":null}\n";
  for (const std::string tail :
       {"", "{\"step\":5,\"tok", "{\"step\":5,\"tokens\":50,\"loss\":1}"}) {
    write_file(temporary / "metrics.jsonl", head + tail);
    const auto curve = read_runs({temporary.path()})[0].curve;
    const bool whole = tail.ends_with("}");
    ASSERT_EQ(curve.size(), whole ? 3 : 2) << tail;
    EXPECT_EQ(curve[0].loss, 3);
    EXPECT_EQ(curve[1].loss, 2);
  }
}

TEST(ReadRuns, SaysWhichFileLineAndKeyIsWrong) {
  const std::string good = evaluation("a", "MHA", 512, 12).dump();
  const auto without = [&](const char* pointer, Json value = "erase") {
    Json changed = evaluation("a", "MHA", 512, 12);
    const Json::json_pointer at(pointer);
    if (value == "erase") {
      changed[at.parent_pointer()].erase(at.back());
    } else {
      changed[at] = std::move(value);
    }
    return changed.dump();
  };
  struct Case {
    std::string evaluation, metrics;
    ExitCode code;
    std::string fragment;
  };
  const std::vector<Case> cases = {
      {"{\n\"name\": oops}", "", ExitCode::kBadData, "evaluation.json:2: is not JSON"},
      {"[1]", "", ExitCode::kBadData, "found array"},
      {"", "", ExitCode::kBadData, "is not JSON"},
      {std::string(1000, '[') + std::string(1000, ']'), "", ExitCode::kBadData, "nested deeper"},
      {without("/perplexity"), "", ExitCode::kBadData, "evaluation.json: perplexity: is missing"},
      {without("/cache/bytes_formula"), "", ExitCode::kBadData, "cache.bytes_formula: is missing"},
      {without("/cache/lengths", 3), "", ExitCode::kBadData, "cache.lengths: expected objects"},
      {without("/cache", 3), "", ExitCode::kBadData, "cache.bytes_measured: is missing"},
      {without("/perplexity", nullptr), "", ExitCode::kBadData, "perplexity: is null"},
      {without("/perplexity", "12"), "", ExitCode::kBadData, "found \"12\""},
      {without("/perplexity", -1), "", ExitCode::kBadData, "found -1"},
      {without("/bits_per_byte", "x"), "", ExitCode::kBadData, "bits_per_byte: found \"x\""},
      {without("/perplexity", 1e285), "", ExitCode::kBadData,
       "perplexity: found 1e+285, expected a number of at most 1e+60"},
      {without("/cache/bytes_per_token", 1e300), "", ExitCode::kBadData,
       "cache.bytes_per_token: found 1e+300"},
      {without("/context", 1e13), "", ExitCode::kBadData, "context: found 1"},
      {without("/cache/dtype", 5), "", ExitCode::kBadData, "cache.dtype: expected a text"},
      {without("/name", 5), "", ExitCode::kBadData, "name: expected a text"},
      {good, "{\"step\":1,\"tokens\":1,\"loss\":1}\n{oops}\n", ExitCode::kBadData,
       "metrics.jsonl:2: is not JSON"},
      {good, "{\"step\":1,\"loss\":1}\n", ExitCode::kBadData, "metrics.jsonl:1: tokens"},
      {good, "{\"step\":1,\"tokens\":1,\"loss\":\"x\"}\n", ExitCode::kBadData, "found \"x\""},
      {good, "{\"step\":1e30,\"tokens\":1,\"loss\":1}\n", ExitCode::kBadData, ":1: step"},
      {good, "{\"step\":1,\"tokens\":1,\"loss\":1e999}\n", ExitCode::kBadData, "too large"},
      {good, "{\"step\":1,\"tokens\":1,\"loss\":1e300}\n", ExitCode::kBadData, "found 1e+300"},
      {good, "7\n", ExitCode::kBadData, "metrics.jsonl:1: step"},
  };
  for (const auto& [written, metrics, code, fragment] : cases) {
    const TemporaryDirectory temporary;
    write_file(temporary / "evaluation.json", written);
    if (!metrics.empty()) write_file(temporary / "metrics.jsonl", metrics);
    try {
      read_runs({temporary.path()});
      ADD_FAILURE() << "accepted; expected " << fragment;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), code) << e.what();
      EXPECT_NE(std::string(e.what()).find(fragment), std::string::npos) << e.what();
    }
  }
}

TEST(ReadRuns, RefusesNothingAndWhatIsNotThere) {
  const TemporaryDirectory temporary;
  const auto code_of = [](const std::vector<fs::path>& paths) {
    try {
      read_runs(paths);
    } catch (const Error& e) {
      return e.code();
    }
    return ExitCode::kDone;
  };
  EXPECT_EQ(code_of({}), ExitCode::kUsage);
  EXPECT_EQ(code_of({temporary.path()}), ExitCode::kMissingInput);
  EXPECT_EQ(code_of({temporary / "nowhere.json"}), ExitCode::kMissingInput);
  EXPECT_THROW(judge_runs({}), Error);
}

}  // namespace
}  // namespace kvsmith
