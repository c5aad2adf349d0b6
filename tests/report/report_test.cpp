#include "report/report.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <unistd.h>

#include "core/error.h"
#include "core/text.h"
#include "report/chart_scale.h"
#include "report/label_placement.h"
#include "report/svg.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = (fs::temp_directory_path() / "kvsmith-report-XXXXXX").string();
    if (!::mkdtemp(name.data())) throw std::runtime_error("mkdtemp");
    path_ = name;
  }
  ~TemporaryDirectory() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }

  fs::path put(const fs::path& name, const std::string& content) const {
    fs::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << content;
    return path_ / name;
  }

 private:
  fs::path path_;
};

std::string content_of(const fs::path& path) {
  std::ostringstream out;
  out << std::ifstream(path, std::ios::binary).rdbuf();
  return out.str();
}

Json evaluation(const std::string& name,
                const std::string& architecture,
                double bytes_per_token,
                double perplexity) {
  return {{"name", name},
          {"corpus", "data/stories.h5"},
          {"split", "validation"},
          {"architecture", architecture},
          {"parameters", 12'600'000},
          {"tokens_seen", 20'000'000},
          {"tokens", 51'234},
          {"perplexity", perplexity},
          {"bits_per_byte", nullptr},
          {"context", 1024},
          {"stride", 512},
          {"protocol", "decode"},
          {"cache",
           {{"bytes_measured", 1024 * bytes_per_token},
            {"bytes_formula", 1024 * bytes_per_token},
            {"bytes_per_token", bytes_per_token},
            {"bytes_at_8k", 8192 * bytes_per_token}}}};
}

std::vector<LossPoint> falling_curve(int64_t points, int64_t validate_every) {
  std::vector<LossPoint> curve;
  for (int64_t i = 1; i <= points; ++i) {
    const double loss = 2 + 6 / std::sqrt(static_cast<double>(i));
    curve.push_back(
        {i, 1000 * i, loss, i % validate_every == 0 ? std::optional(loss + 0.1) : std::nullopt});
  }
  return curve;
}

struct Spot {
  double bytes, perplexity;
};

std::vector<ReportRun> runs_at(const std::vector<Spot>& spots) {
  std::vector<ReportRun> runs;
  for (size_t i = 0; i < spots.size(); ++i) {
    runs.push_back(
        {.evaluation = evaluation(cat("run", i), cat("A", i), spots[i].bytes, spots[i].perplexity),
         .curve = falling_curve(200, 50)});
  }
  return runs;
}

/// Sets of runs that have made charts go wrong.
std::vector<std::vector<ReportRun>> awkward_reports() {
  std::vector<Spot> twelve, hundred;
  for (int i = 0; i < 12; ++i) twelve.push_back({64.0 * (i + 1), 14 - 0.2 * i});
  for (int i = 0; i < 100; ++i) hundred.push_back({100.0 + i % 10, 12 + 0.01 * (i / 10)});
  std::vector<std::vector<ReportRun>> reports = {
      runs_at({{512, 12.3}}),
      runs_at({{2048, 11.8}, {512, 11.9}, {256, 12.4}}),
      runs_at(twelve),
      runs_at(std::vector<Spot>(12, {512, 12.3})),
      runs_at(hundred),
      runs_at({{2, 9e4}, {1e12, 1.0}, {1e3, 1e30}}),
      runs_at({{0, 12}, {1e9, 13}}),
      runs_at({{0, 0}}),
      runs_at({{341.3333, 12.3}, {341.3334, 12.30001}}),
  };
  auto named = runs_at({{512, 12.3}, {256, 13}});
  named[0].evaluation["name"] = "<script>alert('&\"')</script>";
  named[0].evaluation["architecture"] = "GQA <6/2> & \"co\" \x01";
  named[1].evaluation["architecture"] = std::string(300, 'W');
  named[1].curve = {{1, 0, 3.0, 3.1}};
  reports.push_back(named);
  return reports;
}

/// The first fault of markup in which every element is closed, either by a tag or by "/>".
std::string fault_of_markup(const std::string& text,
                            const std::vector<std::string>& void_elements) {
  std::vector<std::string> open;
  for (size_t at = text.find('<'); at != std::string::npos; at = text.find('<', at + 1)) {
    if (text[at + 1] == '!') continue;
    const size_t end = text.find('>', at);
    if (end == std::string::npos) return "open tag at the end";
    const bool closing = text[at + 1] == '/';
    const size_t begin = at + (closing ? 2 : 1);
    const std::string name = text.substr(begin, text.find_first_of(" \n/>", begin) - begin);
    const std::string tag = text.substr(at, end - at + 1);
    if (tag.find('<', 1) != std::string::npos) return "< inside " + tag;
    if (std::ranges::count(tag, '"') % 2 != 0) return "odd quotes in " + tag;
    if (closing) {
      if (open.empty() || open.back() != name) return "unexpected " + tag;
      open.pop_back();
    } else if (text[end - 1] != '/' &&
               std::ranges::find(void_elements, name) == void_elements.end()) {
      open.push_back(name);
    }
  }
  return open.empty() ? "" : "never closed: " + open.back();
}

TEST(ReadRuns, FindsEvaluationAndCurveOfADirectoryAndOfAFile) {
  const TemporaryDirectory temporary;
  temporary.put("a/evaluation.json", evaluation("a", "MHA", 512, 12).dump());
  temporary.put("a/metrics.jsonl",
                "{\"step\":1,\"tokens\":10,\"loss\":3.5,\"learning_rate\":0.1}\n"
                "{\"step\":2,\"tokens\":20,\"loss\":3.25,\"validation_loss\":3.5}\n");
  const auto file = temporary.put("b.json", evaluation("b", "MQA", 64, 13).dump());

  const auto runs = read_runs({temporary.path() / "a", file});
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
  temporary.put("evaluation.json", evaluation("long", "MHA", 512, 12).dump());
  temporary.put("evaluation-256.json", evaluation("short", "MHA", 512, 13).dump());
  temporary.put("metrics.jsonl", "{\"step\":1,\"tokens\":10,\"loss\":3.5}\n");
  const auto runs = read_runs({temporary.path()});
  ASSERT_EQ(runs.size(), 2);
  EXPECT_EQ(runs[0].evaluation["name"], "short");
  EXPECT_EQ(runs[0].curve.size() + runs[1].curve.size(), 1);
}

TEST(ReadRuns, LeavesOutTornLinesRepeatedStepsAndLossesThatAreNotNumbers) {
  const TemporaryDirectory temporary;
  temporary.put("evaluation.json", evaluation("a", "MHA", 512, 12).dump());
  const std::string head =
      "{\"step\":1,\"tokens\":10,\"loss\":3}\n{\"step\":2,\"tokens\":20,\"loss\":4}\n"
      "{\"step\":3,\"tokens\":30,\"loss\":5}\n{\"step\":2,\"tokens\":20,\"loss\":2}\n\n"
      "{\"step\":4,\"tokens\":40,\"loss\":null}\n";
  for (const std::string tail :
       {"", "{\"step\":5,\"tok", "{\"step\":5,\"tokens\":50,\"loss\":1}"}) {
    temporary.put("metrics.jsonl", head + tail);
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
      {without("/cache", 3), "", ExitCode::kBadData, "cache.bytes_measured: is missing"},
      {without("/perplexity", nullptr), "", ExitCode::kBadData, "perplexity: is null"},
      {without("/perplexity", "12"), "", ExitCode::kBadData, "found \"12\""},
      {without("/perplexity", -1), "", ExitCode::kBadData, "found -1"},
      {without("/bits_per_byte", "x"), "", ExitCode::kBadData, "bits_per_byte: found \"x\""},
      {without("/name", 5), "", ExitCode::kBadData, "name: expected a text"},
      {good, "{\"step\":1,\"tokens\":1,\"loss\":1}\n{oops}\n", ExitCode::kBadData,
       "metrics.jsonl:2: is not JSON"},
      {good, "{\"step\":1,\"loss\":1}\n", ExitCode::kBadData, "metrics.jsonl:1: tokens"},
      {good, "{\"step\":1,\"tokens\":1,\"loss\":\"x\"}\n", ExitCode::kBadData, "found \"x\""},
      {good, "{\"step\":1e30,\"tokens\":1,\"loss\":1}\n", ExitCode::kBadData, ":1: step"},
      {good, "{\"step\":1,\"tokens\":1,\"loss\":1e999}\n", ExitCode::kBadData, "too large"},
      {good, "7\n", ExitCode::kBadData, "metrics.jsonl:1: step"},
  };
  for (const auto& [written, metrics, code, fragment] : cases) {
    const TemporaryDirectory temporary;
    temporary.put("evaluation.json", written);
    if (!metrics.empty()) temporary.put("metrics.jsonl", metrics);
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
  EXPECT_EQ(code_of({temporary.path() / "nowhere.json"}), ExitCode::kMissingInput);
  EXPECT_THROW(judge_runs({}), Error);
}

TEST(Findings, ParetoKeepsWhatNothingBeatsInBoth) {
  struct Case {
    std::vector<Spot> spots;
    std::vector<bool> pareto;
  };
  for (const auto& [spots, pareto] : std::vector<Case>{
           {{{4, 4}}, {true}},
           {{{1, 9}, {2, 8}, {3, 7}}, {true, true, true}},
           {{{1, 9}, {2, 9}, {3, 7}}, {true, false, true}},
           {{{1, 9}, {1, 8}}, {false, true}},
           {{{2, 5}, {2, 5}}, {true, true}},
           {{{1, 1}, {2, 5}, {5, 2}}, {true, false, false}},
       }) {
    const auto rows = judge_runs(runs_at(spots)).rows;
    for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(rows[i].pareto, pareto[i]) << i;
  }
}

TEST(Findings, SummaryIsComputedFromTheRuns) {
  struct Case {
    std::vector<Spot> spots;
    std::string sentence;
  };
  for (const auto& [spots, sentence] : std::vector<Case>{
           {{{512, 12.345}}, "A0 holds 512 B a token at perplexity 12.35."},
           {{{512, 10}, {128, 10.18}},
            "A1 holds 128 B a token, 4.0x less than A0, at +1.8 % perplexity."},
           {{{512, 10}, {96.5, 9.5}},
            "A1 holds 96.5 B a token, 5.3x less than A0, at -5.0 % perplexity."},
           {{{512, 10}, {128, 10}},
            "A1 holds 128 B a token, 4.0x less than A0, at equal perplexity."},
           {{{512, 10}, {512, 9}, {128, 9}},
            "A2 holds 128 B a token, 4.0x less than A1, at equal perplexity."},
           {{{512, 10}, {512, 9}},
            "All 2 runs hold 512 B a token; A1 has the lowest perplexity, 9.00."},
           {{{512, 10}, {128, 500}},
            "A1 holds 128 B a token, 4.0x less than A0, at perplexity 500.00 instead of 10.00."},
       }) {
    EXPECT_EQ(judge_runs(runs_at(spots)).summary, sentence);
  }
}

TEST(Findings, RunsMeasuredOtherwiseAreFlaggedAndJudgedApart) {
  for (const char* key : {"tokens", "context", "stride", "split", "protocol", "corpus"}) {
    auto runs = runs_at({{512, 12}, {256, 12.5}, {64, 2}});
    runs[2].evaluation[key] = "other";
    if (runs[0].evaluation[key].is_number()) runs[2].evaluation[key] = 7;
    const auto findings = judge_runs(runs);
    EXPECT_FALSE(findings.comparable) << key;
    EXPECT_TRUE(findings.rows[0].measured_alike);
    EXPECT_FALSE(findings.rows[2].measured_alike) << key;
    EXPECT_TRUE(findings.rows[0].pareto) << "beaten by a run measured otherwise";
    ASSERT_EQ(findings.notes.size(), 1);
    EXPECT_TRUE(findings.notes[0].starts_with(cat("Not comparable: A2 has ", key)));
    const std::string page = report_html(runs, "t");
    EXPECT_NE(page.find("† Not comparable"), std::string::npos);
    EXPECT_EQ(page.find("class=\"front\""), std::string::npos) << "a front across measurements";
  }
  auto runs = runs_at({{512, 12}, {256, 12.5}});
  runs[1].evaluation["corpus"] = "/elsewhere/stories.h5";
  EXPECT_TRUE(judge_runs(runs).comparable);
}

TEST(Findings, NotesUnequalTrainingUnequalSizeAndAWrongFormula) {
  auto runs = runs_at({{512, 12}, {256, 12.5}});
  EXPECT_TRUE(judge_runs(runs).notes.empty());
  runs[1].evaluation["tokens_seen"] = 10'000'000;
  runs[1].evaluation["parameters"] = 15'000'000;
  runs[1].evaluation["cache"]["bytes_formula"] = 17;
  const auto notes = judge_runs(runs).notes;
  ASSERT_EQ(notes.size(), 3);
  EXPECT_NE(notes[0].find("10M to 20M"), std::string::npos);
  EXPECT_NE(notes[1].find("12.6M to 15M"), std::string::npos);
  EXPECT_NE(notes[2].find("A1 measured 256 KiB where its formula says 17 B"), std::string::npos);
}

TEST(Findings, LabelsAreUnique) {
  auto runs = runs_at({{1, 2}, {2, 2}, {3, 2}});
  EXPECT_EQ(judge_runs(runs).rows[1].label, "A1");
  for (auto& run : runs) run.evaluation["architecture"] = "GQA";
  EXPECT_EQ(judge_runs(runs).rows[1].label, "run1");
  for (auto& run : runs) run.evaluation["name"] = "same";
  EXPECT_EQ(judge_runs(runs).rows[1].label, "same (2)");
  EXPECT_EQ(judge_runs(runs).rows[2].label, "same (3)");
}

TEST(Page, IsWellFormedAndNeedsNothingElseWhateverTheRuns) {
  for (const auto& runs : awkward_reports()) {
    const std::string title = "<b>\"Bytes\" & 'perplexity'</b>";
    const std::string svg = report_svg(runs, title);
    EXPECT_EQ(fault_of_markup(svg, {}), "");
    const std::string page = report_html(runs, title);
    EXPECT_EQ(fault_of_markup(page, {"meta"}), "");
    for (const std::string& text : {svg, page}) {
      for (const char* unwanted :
           {"<script", "<b>\"", "\x01", ">nan", "\"nan", " nan", "Mnan", "Lnan", ">inf", "\"inf",
            " inf ", "-inf", "@import", "url(", "src="}) {
        EXPECT_EQ(text.find(unwanted), std::string::npos)
            << unwanted << ", " << runs.size() << " runs";
      }
      for (size_t at = text.find("http"); at != std::string::npos; at = text.find("http", at + 1)) {
        EXPECT_TRUE(text.substr(at).starts_with("http://www.w3.org/2000/svg\""));
      }
    }
    for (const auto& row : judge_runs(runs).rows) {
      EXPECT_NE(page.find(escape_markup(row.architecture)), std::string::npos);
    }
  }
}

TEST(Page, ShowsFiguresBaselineAndCurvesWhenThereAreAny) {
  auto runs = runs_at({{512, 12.345}, {256, 13}});
  runs[0].evaluation["unigram_perplexity"] = 412.7;
  std::string page = report_html(runs, "t");
  for (const char* wanted :
       {">12.35<", "title=\"4,194,304 B\">4 MiB<", "Unigram baseline", "412.70",
        "measured 524,288 B, by formula 524,288 B", "✓", "<h2>Training</h2>", "A0: validation loss",
        "kvsmith " KVSMITH_VERSION}) {
    EXPECT_NE(page.find(wanted), std::string::npos) << wanted;
  }
  runs[0].evaluation.erase("unigram_perplexity");
  for (auto& run : runs) run.curve.clear();
  page = report_html(runs, "t");
  EXPECT_EQ(page.find("Unigram baseline"), std::string::npos);
  EXPECT_EQ(page.find("<h2>Training</h2>"), std::string::npos);
}

TEST(Csv, QuotesAsRfc4180AndKeepsTheFlatKeys) {
  auto runs = runs_at({{512, 12}, {1024, 13}});
  runs[0].evaluation["name"] = "a,\"b\"\nc";
  runs[1].evaluation["unigram_perplexity"] = 400.5;
  const std::string csv = report_csv(runs);
  EXPECT_EQ(
      csv.substr(0, csv.find("\r\n")),
      "name,corpus,split,architecture,parameters,tokens_seen,tokens,perplexity,bits_per_byte,"
      "context,stride,protocol,cache.bytes_measured,cache.bytes_formula,cache.bytes_per_token,"
      "cache.bytes_at_8k,unigram_perplexity,pareto");
  EXPECT_NE(csv.find("\r\n\"a,\"\"b\"\"\nc\",data/stories.h5,validation,A0,12600000,20000000,51234,"
                     "12.0,,1024,512,decode,524288.0,524288.0,512.0,4194304.0,,true\r\n"),
            std::string::npos)
      << csv;
  EXPECT_TRUE(csv.ends_with(",400.5,false\r\n"));
}

TEST(ReportJson, HoldsEvaluationsFrontAndThinnedCurves) {
  auto runs = runs_at({{512, 12}, {1024, 13}});
  runs[0].curve = falling_curve(12'345, 1000);
  const Json report = Json::parse(report_json(runs, "bad utf-8 \xff"));
  EXPECT_EQ(report["title"], "bad utf-8 \xEF\xBF\xBD");
  EXPECT_EQ(report["generated_by"], "kvsmith " KVSMITH_VERSION);
  ASSERT_EQ(report["runs"].size(), 2);
  EXPECT_EQ(report["runs"][0]["cache"]["bytes_per_token"], 512);
  EXPECT_EQ(report["runs"][0]["pareto"], true);
  EXPECT_EQ(report["runs"][1]["pareto"], false);
  const Json& curve = report["runs"][0]["curve"];
  EXPECT_EQ(curve.size(), 500);
  EXPECT_EQ(curve.back()["step"], 12'345);
  EXPECT_EQ(
      std::ranges::count_if(curve, [](const Json& p) { return p.contains("validation_loss"); }),
      12);
  EXPECT_EQ(report["runs"][1]["curve"].size(), 200);
}

TEST(ReportTable, AlignsItsColumns) {
  auto runs = runs_at({{512, 12}, {1024, 133.5}});
  runs[0].evaluation["name"] = "ünï\x1b[31m";
  std::istringstream text(report_table(runs));
  std::vector<size_t> widths;
  for (std::string line; std::getline(text, line) && !line.empty();) {
    EXPECT_EQ(line.find('\x1b'), std::string::npos);
    widths.push_back(static_cast<size_t>(std::ranges::count_if(
        line, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; })));
  }
  ASSERT_EQ(widths.size(), 3);
  EXPECT_EQ(widths[0], widths[1]);
  EXPECT_EQ(widths[0], widths[2]);
}

TEST(WriteReport, WritesFourFilesOfOneStem) {
  const TemporaryDirectory temporary;
  const auto runs = runs_at({{512, 12}, {256, 13}});
  write_report(runs, temporary.path() / "plane.html", "title");
  EXPECT_EQ(content_of(temporary.path() / "plane.html"), report_html(runs, "title"));
  EXPECT_EQ(content_of(temporary.path() / "plane.csv"), report_csv(runs));
  EXPECT_EQ(content_of(temporary.path() / "plane.json"), report_json(runs, "title"));
  EXPECT_EQ(content_of(temporary.path() / "plane.svg"), report_svg(runs, "title"));
  EXPECT_THROW(write_report(runs, temporary.path() / "plane.json", "title"), Error);
  EXPECT_THROW(write_report({}, temporary.path() / "none.html", "title"), Error);
  EXPECT_FALSE(fs::exists(temporary.path() / "none.csv"));
}

TEST(ChartScale, TicksAreFewInsideAscendingAndTellThemselvesApart) {
  const double tiny = 1e-6, huge = 1e15;
  for (const auto unit : {AxisUnit::kPlain, AxisUnit::kBytes}) {
    for (const auto& [low, high] : std::vector<std::pair<double, double>>{{12.31, 12.35},
                                                                          {11.8, 14.1},
                                                                          {3, 500},
                                                                          {64, 4096},
                                                                          {100, 399},
                                                                          {1, huge},
                                                                          {0, huge},
                                                                          {5, 5},
                                                                          {0, 0},
                                                                          {96, 1024},
                                                                          {1000, 1001},
                                                                          {2, 8.5},
                                                                          {0, 20e6},
                                                                          {341.5, 342},
                                                                          {12310, 12350},
                                                                          {1024, 1080}}) {
      const ChartScale scale = make_scale(low, high, unit, 300, 40, 6);
      EXPECT_GE(scale.ticks.size(), 2) << low << " to " << high;
      EXPECT_LE(scale.ticks.size(), 8) << low << " to " << high;
      for (size_t i = 0; i < scale.ticks.size(); ++i) {
        const double pixel = scale.at(scale.ticks[i].value);
        EXPECT_GE(pixel, 40 - tiny);
        EXPECT_LE(pixel, 300 + tiny);
        if (i == 0) continue;
        EXPECT_LT(scale.ticks[i - 1].value, scale.ticks[i].value);
        EXPECT_NE(scale.ticks[i - 1].label, scale.ticks[i].label) << low << " to " << high;
      }
      EXPECT_LT(scale.at(high), 300);
      EXPECT_GT(scale.at(low), 40);
    }
  }
}

TEST(ChartScale, BytesAreCountedInPowersOfTwo) {
  std::vector<std::string> labels;
  for (const auto& tick : make_scale(128, 4096, AxisUnit::kBytes, 0, 1, 8).ticks)
    labels.push_back(tick.label);
  EXPECT_EQ(join(labels), "128 B, 256 B, 512 B, 1 KiB, 2 KiB, 4 KiB");
  labels.clear();
  for (const auto& tick : make_scale(600, 1500, AxisUnit::kBytes, 0, 1, 5).ticks)
    labels.push_back(tick.label);
  EXPECT_EQ(join(labels), "768 B, 1 KiB, 1.25 KiB, 1.5 KiB");
}

TEST(ChartScale, NumbersAreShortButNotRoundedAway) {
  EXPECT_EQ(compact_bytes(1024), "1 KiB");
  EXPECT_EQ(compact_bytes(1536), "1.5 KiB");
  EXPECT_EQ(compact_bytes(100), "100 B");
  EXPECT_EQ(compact_bytes(85.25), "85.25 B");
  EXPECT_EQ(compact_count(20'000'000), "20M");
  EXPECT_EQ(compact_count(12'600'000), "12.6M");
  EXPECT_EQ(compact_count(100), "100");
}

TEST(LabelPlacement, LabelsCoverNoMarkAndNoOtherLabel) {
  std::mt19937 random(7);
  std::uniform_real_distribution<double> x(40, 700), y(40, 360), width(20, 120);
  const Box area{0, 0, 760, 400};
  std::vector<Labelled> spread, heap(12, {200, 200, 60});
  for (int i = 0; i < 25; ++i) spread.push_back({x(random), y(random), width(random)});
  for (const auto& marks : {spread, heap}) {
    std::vector<Box> boxes;
    const auto places = place_labels(marks, area, {});
    ASSERT_EQ(places.size(), marks.size());
    for (size_t i = 0; i < marks.size(); ++i) {
      ASSERT_TRUE(places[i]) << i;
      const std::string anchor = places[i]->anchor;
      const double share = anchor == "start" ? 0 : anchor == "end" ? 1 : 0.5;
      const double left = places[i]->x - share * marks[i].width;
      const Box box{left, places[i]->y - 7, left + marks[i].width, places[i]->y + 7};
      EXPECT_GE(box.left, area.left);
      EXPECT_LE(box.right, area.right);
      for (const Box& other : boxes) EXPECT_FALSE(overlap(box, other)) << i;
      for (const auto& mark : marks) {
        EXPECT_FALSE(overlap(box, {mark.x - 5, mark.y - 5, mark.x + 5, mark.y + 5})) << i;
      }
      boxes.push_back(box);
    }
  }
}

TEST(LabelPlacement, GivesUpWhereThereIsNoRoom) {
  const auto places = place_labels({{50, 50, 500}}, {0, 0, 100, 100}, {});
  EXPECT_FALSE(places[0]);
}

TEST(LabelPlacement, SpreadLabelsStayInOrderApartAndInside) {
  const std::vector<double> wanted = {50, 10, 50, 51, 195, 199, 10};
  const auto y = spread_labels(wanted, 16, 10, 200);
  std::vector<double> sorted = y;
  std::ranges::sort(sorted);
  EXPECT_GE(sorted.front(), 10);
  EXPECT_LE(sorted.back(), 200);
  for (size_t i = 1; i < sorted.size(); ++i) EXPECT_GE(sorted[i] - sorted[i - 1], 16 - 1e-9);
  EXPECT_LT(y[1], y[0]);
  EXPECT_LT(y[0], y[3]);
  EXPECT_LT(y[4], y[5]);
}

TEST(LabelPlacement, ShortenCutsBetweenCharacters) {
  EXPECT_EQ(shorten("äöüß", 4), "äöüß");
  EXPECT_EQ(shorten("äöüßx", 4), "äöü…");
  EXPECT_EQ(shorten("", 4), "");
}

}  // namespace
}  // namespace kvsmith
