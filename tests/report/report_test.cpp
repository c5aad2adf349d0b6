#include "report/report.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/files.h"
#include "core/text.h"
#include "report/svg.h"
#include "tests/report/markup.h"
#include "tests/report/sample_runs.h"
#include "tests/support/temporary_directory.h"

namespace kvsmith {
namespace {

using Json = nlohmann::ordered_json;

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
  for (int row = 0; row < 10; ++row)
    for (int i = 0; i < 10; ++i) hundred.push_back({100.0 + i, 12 + 0.01 * row});
  std::vector<std::vector<ReportRun>> reports = {
      runs_at({{512, 12.3}}),
      runs_at({{2048, 11.8}, {512, 11.9}, {256, 12.4}}),
      runs_at(twelve),
      runs_at(std::vector<Spot>(12, {512, 12.3})),
      runs_at(hundred),
      runs_at({{2, 9e4}, {1e12, 1.0}, {1e3, 1e30}}),
      runs_at({{1e60, 1e60}, {1, 1}}),
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

TEST(Page, HeadlineKeepsTheTwoWordsOfALabelOnOneLine) {
  const std::string page = report_html(
      {{evaluation("a", "MHA 8", 512, 12), {}}, {evaluation("b", "MQA 8", 64, 13), {}}}, "title");
  EXPECT_NE(page.find("MQA\u00A08 holds 64 B a token, 8.0x less than MHA\u00A08"), page.npos);
}

TEST(Page, ShowsFiguresBaselineAndCurvesWhenThereAreAny) {
  auto runs = runs_at({{512, 12.345}, {256, 13}});
  runs[0].evaluation["unigram_perplexity"] = 412.7;
  std::string page = report_html(runs, "t");
  for (const char* wanted : {">12.35<", "title=\"4,194,304 B\">4 MiB<", "Unigram baseline",
                             "412.70", "measured 524,288 B, by formula 524,288 B", "✓",
                             "<h2>Training</h2>", "A0: validation loss"}) {
    EXPECT_NE(page.find(wanted), std::string::npos) << wanted;
  }
  EXPECT_NE(page.find(cat("kvsmith ", KVSMITH_VERSION)), std::string::npos);
  runs[0].evaluation.erase("unigram_perplexity");
  for (auto& run : runs) run.curve.clear();
  page = report_html(runs, "t");
  EXPECT_EQ(page.find("Unigram baseline"), std::string::npos);
  EXPECT_EQ(page.find("<h2>Training</h2>"), std::string::npos);
}

TEST(Page, ShowsLongerTextsWhereSomeCachesEndGrowing) {
  auto runs = runs_at({{512, 12}, {1024, 11}});
  EXPECT_EQ(report_html(runs, "t").find("At longer texts"), std::string::npos);
  const auto measured = [](int64_t tokens, int64_t bytes) {
    return Json{{"tokens", tokens}, {"bytes_measured", bytes}};
  };
  runs[0].evaluation["cache"]["lengths"] = {measured(1023, 9), measured(4096, 4096LL * 512)};
  runs[1].evaluation["cache"]["lengths"] = {measured(4096, 1 << 20)};
  runs[1].evaluation["cache"]["bytes_at_8k"] = 1 << 20;
  const auto rows = judge_runs(runs).rows;
  EXPECT_EQ(common_lengths(rows), (std::vector<int64_t>{4096, 8192}));
  const std::string page = report_html(runs, "t");
  EXPECT_NE(page.find("At longer texts"), std::string::npos);
  EXPECT_NE(page.find("KV cache at 4096 tokens"), std::string::npos);
  EXPECT_NE(page.find("data-label=\"Cache at 4k\" title=\"1,048,576 B\""), std::string::npos);
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
  write_report(runs, temporary / "plane.html", "title");
  EXPECT_EQ(read_file(temporary / "plane.html"), report_html(runs, "title"));
  EXPECT_EQ(read_file(temporary / "plane.csv"), report_csv(runs));
  EXPECT_EQ(read_file(temporary / "plane.json"), report_json(runs, "title"));
  EXPECT_EQ(read_file(temporary / "plane.svg"), report_svg(runs, "title"));
  EXPECT_THROW(write_report(runs, temporary / "plane.json", "title"), Error);
  EXPECT_THROW(write_report({}, temporary / "none.html", "title"), Error);
  EXPECT_FALSE(std::filesystem::exists(temporary / "none.csv"));
}

}  // namespace
}  // namespace kvsmith
