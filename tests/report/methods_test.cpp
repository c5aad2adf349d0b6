#include "report/methods.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/files.h"
#include "core/text.h"
#include "report/page_parts.h"
#include "tests/report/markup.h"
#include "tests/report/sample_runs.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_directory.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

ReportRun run_of(Json evaluation) { return {.evaluation = std::move(evaluation), .curve = {}}; }

/// A checkpoint at two contexts.
std::vector<ReportRun> small_sweep() {
  return {run_of(method_evaluation("gqa", "full", "model", 4096, 20)),
          run_of(method_evaluation("gqa", "h2o", "model", 1024, 21)),
          run_of(method_evaluation("gqa", "window", "model", 1024, 24)),
          run_of(method_evaluation("gqa", "h2o", "q8_0", 512, 21.5)),
          run_of(method_evaluation("gqa", "full", "model", 16384, 17, 2048)),
          run_of(method_evaluation("gqa", "window", "model", 4096, 30, 2048))};
}

/// What `kvsmith evaluate` without --cache writes.
ReportRun plain_run(const std::string& name, double bytes_per_token, double perplexity) {
  Json json = evaluation(name, "MQA 8", bytes_per_token, perplexity);
  json["context"] = json["stride"] = 512;
  json["documents"] = 2;
  json["cache"]["tokens"] = 512;
  json["cache"]["bytes_measured"] = 512 * bytes_per_token;
  json["cache"]["bytes_formula"] = 512 * bytes_per_token;
  return run_of(json);
}

/// 100 points of two checkpoints, with probes.
std::vector<ReportRun> large_sweep() {
  std::vector<ReportRun> runs;
  for (int i = 0; i < 100; ++i) {
    const auto* retention = i % 5 == 0   ? "full"
                            : i % 5 == 1 ? "h2o"
                            : i % 5 == 2 ? "tova"
                                         : "window";
    Json json = method_evaluation(i % 2 == 0 ? "gqa" : "mla", retention, "model", 512 + 37 * i,
                                  30 - 0.1 * i + i % 7);
    json["method"]["seed"] = i;
    json["probes"] = {{{"task", "copy"},
                       {"length", 512},
                       {"depth", 0.5},
                       {"samples", 8},
                       {"token_accuracy", 0.01 * i}}};
    runs.push_back(run_of(json));
  }
  return runs;
}

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++found;
  return found;
}

TEST(Methods, AreJudgedByResidentBytesWithinTheirContext) {
  const auto findings = judge_methods(small_sweep());
  ASSERT_EQ(findings.panels.size(), 2);
  EXPECT_EQ(findings.panels[0].title, "Context 512");
  EXPECT_EQ(findings.panels[0].points, (std::vector<size_t>{0, 1, 2, 3}));
  EXPECT_EQ(findings.panels[1].title, "Context 2048");
  EXPECT_EQ(findings.panels[1].points, (std::vector<size_t>{4, 5}));
  // The full cache at 2048 is beaten at 512 by nobody, nor does it beat: they are not compared.
  const std::vector<bool> pareto = {true, true, false, true, true, true};
  for (size_t i = 0; i < pareto.size(); ++i) EXPECT_EQ(findings.points[i].pareto, pareto[i]) << i;
}

TEST(Methods, OtherTextsAndProtocolsAreOtherPanels) {
  for (const char* key : {"corpus", "split", "tokens", "protocol", "stride", "prefill", "chunk"}) {
    auto runs = small_sweep();
    runs.resize(2);
    runs[1].evaluation[key] =
        runs[0].evaluation.value(key, Json()).is_string() ? Json("x") : Json(7);
    const auto findings = judge_methods(runs);
    EXPECT_EQ(findings.panels.size(), 2) << key;
    EXPECT_NE(findings.panels[0].conditions, findings.panels[1].conditions) << key;
  }
}

TEST(Methods, ShareIsOfTheSameCheckpointContextAndType) {
  auto runs = small_sweep();
  runs.push_back(run_of(method_evaluation("other", "h2o", "model", 1024, 21)));
  runs.push_back(run_of(method_evaluation("gqa", "tova", "model", 1024, 21)));
  runs.back().evaluation["cache"]["dtype"] = "bf16";
  const auto points = judge_methods(runs).points;
  EXPECT_EQ(points[0].share_of_full, 1);
  EXPECT_EQ(points[1].share_of_full, 0.25);
  EXPECT_EQ(points[5].share_of_full, 0.25);
  EXPECT_EQ(points[6].share_of_full, std::nullopt);
  EXPECT_EQ(points[7].share_of_full, std::nullopt);
  // the codec of the model's own type is no codec, and merged layers are not the whole cache
  auto coded = runs;
  const auto full = std::ranges::find_if(coded, [](const ReportRun& run) {
    return run.evaluation["method"]["retention"] == "full" &&
           run.evaluation["method"]["codec_k"] == "model";
  });
  for (const char* key : {"codec_k", "codec_v"})
    full->evaluation["method"][key] = full->evaluation["cache"]["dtype"];
  EXPECT_EQ(judge_methods(coded).points[1].share_of_full, 0.25);
  full->evaluation["method"]["depth_merge"] = "minicache";
  EXPECT_EQ(judge_methods(coded).points[1].share_of_full, std::nullopt);
}

TEST(Methods, OfOneNameAreToldApartByWhatDiffers) {
  auto runs = small_sweep();
  runs.push_back(runs[1]);
  runs.back().evaluation["method"]["seed"] = 3;
  runs.push_back(runs[0]);
  runs.back().evaluation["checkpoint"] = "elsewhere/gqa";
  const auto points = judge_methods(runs).points;
  EXPECT_EQ(full_name(points[1]), "gqa: h2o 64, seed 0");
  EXPECT_EQ(full_name(points[6]), "gqa: h2o 64, seed 3");
  EXPECT_EQ(full_name(points[7]), "gqa (2): full");
  EXPECT_EQ(full_name(points[0]), "gqa: full");
}

TEST(Methods, FindTheSmallestThatIsNearlyAsGood) {
  const auto findings = judge_methods(small_sweep());
  EXPECT_EQ(findings.panels[0].finding,
            "Of 4 points the smallest within 5 % of the lowest perplexity is gqa: h2o 64: 1 KiB, "
            "4.0x less than gqa: full, at +5.0 % perplexity.");
  EXPECT_EQ(findings.panels[1].finding,
            "Of 2 points none within 5 % of the lowest perplexity is smaller than gqa: full, "
            "16 KiB.");
  EXPECT_EQ(findings.summary, "Context 2048. " + findings.panels[1].finding);
}

TEST(Methods, ProbesAreMeansOfTheirTask) {
  auto runs = small_sweep();
  const auto probe = [](const char* task, double depth, double accuracy) {
    return Json{{"task", task},
                {"length", 512},
                {"depth", depth},
                {"samples", 8},
                {"token_accuracy", accuracy}};
  };
  runs[1].evaluation["probes"] = {probe("copy", 0.2, 0.5), probe("mqar", 0.2, 0.125),
                                  probe("copy", 0.8, 1)};
  const auto findings = judge_methods(runs);
  EXPECT_EQ(findings.tasks, (std::vector<std::string>{"copy", "mqar"}));
  EXPECT_EQ(findings.points[1].probes.at("copy").accuracy, 0.75);
  EXPECT_EQ(findings.points[1].probes.at("mqar").accuracy, 0.125);
  EXPECT_TRUE(findings.points[0].probes.empty());
}

TEST(MeanBytes, FollowTheLinesBetweenMeasuredLengths) {
  const auto mean_of = [](double at_4, double at_context, double at_long,
                          const Json& more = Json::object()) {
    Json json = evaluation("a", "A", 1, 1);
    json["context"] = 8;
    json["documents"] = 1;
    json["cache"] = {{"tokens", 8},
                     {"bytes_measured", at_context},
                     {"bytes_at_8k", at_long},
                     {"lengths", {{{"tokens", 4}, {"bytes_measured", at_4}}}}};
    json.update(more);
    return mean_bytes_of_windows(json);
  };
  EXPECT_EQ(mean_of(40, 80, 81920), 45) << "grows by the token";
  EXPECT_EQ(mean_of(64, 64, 64), 64) << "a state";
  EXPECT_EQ(mean_of(140, 180, 82020), 145) << "both";
  EXPECT_EQ(mean_of(40, 80, 81920, {{"protocol", "chunked"}}), std::nullopt);
  EXPECT_EQ(mean_of(40, 80, 81920, {{"documents", 100'000}}), std::nullopt) << "short windows";
  EXPECT_EQ(mean_of(40, 80, 81920, {{"documents", nullptr}}), std::nullopt);
}

TEST(Methods, RunsWithoutOneStandBesideThemWhereTheirMeanIsKnown) {
  auto runs = small_sweep();
  runs.push_back(plain_run("mqa", 2, 20.25));
  runs.push_back(plain_run("unknown", 2, 20.25));
  runs.back().evaluation.erase("documents");
  runs.push_back(plain_run("gqa", 1024, 20));
  runs.back().evaluation["checkpoint"] = "runs/gqa";
  runs.back().evaluation["cache"]["dtype"] = "fp32";
  const auto findings = judge_methods(runs);
  EXPECT_EQ(findings.points[6].mean_bytes, 513);
  EXPECT_EQ(findings.points[6].pareto, true);
  EXPECT_EQ(findings.points[3].pareto, true) << "as small by a byte";
  EXPECT_EQ(findings.points[7].pareto, std::nullopt);
  EXPECT_TRUE(findings.points[8].repeats_full) << "the same cache was also read through a method";
  EXPECT_EQ(findings.panels[0].points.size(), 5);
  ASSERT_EQ(findings.notes.size(), 2);
  EXPECT_TRUE(findings.notes[0].starts_with("mqa at context 512 was evaluated without --cache: "));
  EXPECT_NE(findings.notes[1].find("--cache full"), std::string::npos);

  const std::string page = report_html(runs, "t");
  EXPECT_NE(page.find("<h2>Cache methods</h2>"), page.npos);
  EXPECT_NE(page.find("<h2>Memory and perplexity</h2>"), page.npos) << "the runs as before";
  EXPECT_EQ(fault_of_markup(page, {"meta"}), "");
}

TEST(MethodsPage, SaysAllWithoutScriptsAndNeedsNothingElse) {
  auto runs = small_sweep();
  runs[1].evaluation["name"] = "<b>\"gqa\" & 'co'</b>";
  runs[1].evaluation["probes"] = {
      {{"task", "copy"}, {"length", 512}, {"depth", 0.5}, {"samples", 8}, {"token_accuracy", 0.5}}};
  const std::string page = report_html(runs, "t");
  EXPECT_EQ(fault_of_markup(page, {"meta"}), "");
  EXPECT_EQ(fault_of_markup(report_svg(runs, "t"), {}), "");
  for (const char* unwanted : {"https://", "src=", "url(", "@import", "fetch(", "<b>\""})
    EXPECT_EQ(page.find(unwanted), page.npos) << unwanted;
  EXPECT_EQ(count(page, "http://"), count(page, "http://www.w3.org/2000/svg\""));
  const std::string still = page.substr(0, page.find("<script>"));
  EXPECT_NE(still.find("<table class=\"points\">"), still.npos);
  EXPECT_EQ(count(still, "<tr data-point="), runs.size());
  for (const char* wanted :
       {"<h3>Context 512</h3>", "<h3>Context 2048</h3>", "<h2>Recall</h2>", "copy",
        "gqa: window 64", "payload 1 KiB, codec metadata 48 B, index 40 B, policy state 56 B",
        "perplexity 24.00 (95 %: 23.50 to 24.75), with all kept 20.50",
        "KL to full 0.1250 nats, top-1 87.5 %", "protocol decode, context 512, 51,234 tokens",
        "data-retention=\"h2o\" data-codec=\"q8_0\""}) {
    EXPECT_NE(still.find(wanted), still.npos) << wanted;
  }
}

TEST(MethodsPage, NamesOnlyTheFrontOfACrowd) {
  const auto runs = large_sweep();
  const auto findings = judge_methods(runs);
  const auto charts = method_charts(findings);
  ASSERT_EQ(charts.size(), 1);
  ASSERT_EQ(charts[0].points.size(), 100);
  for (const auto& point : charts[0].points) EXPECT_EQ(point.label.empty(), !point.on_front);
  EXPECT_TRUE(std::ranges::any_of(charts[0].points, &PlanePoint::on_front));
  const auto few = method_charts(judge_methods(small_sweep()));
  for (const auto& point : few[0].points) EXPECT_FALSE(point.label.empty());
  EXPECT_EQ(few[0].points[1].label, "h2o 64") << "one checkpoint needs no name";
  EXPECT_EQ(few[0].points[3].label, "h2o 64, q8_0");
  const std::string page = report_html(runs, "t");
  EXPECT_EQ(fault_of_markup(page, {"meta"}), "");
  EXPECT_NE(page.find("Recall accuracy"), page.npos);
}

TEST(MethodsPage, AMethodThatFailsDoesNotFlattenTheOthers) {
  std::vector<ReportRun> runs;
  for (int i = 0; i < 20; ++i)
    runs.push_back(run_of(method_evaluation("gqa", "h2o", "model", 1024 + i, 20 + i / 10.0)));
  EXPECT_EQ(report_html(runs, "t").find("far above"), std::string::npos);
  runs.push_back(run_of(method_evaluation("gqa", "cam", "model", 1024, 300)));
  EXPECT_NE(report_html(runs, "t").find("1 far above at the edge"), std::string::npos);
}

TEST(MethodsPage, DimsWhatIsDominated) {
  const std::string page = report_html(small_sweep(), "t");
  EXPECT_EQ(count(page, " dim\" data-point=\"2\""), 1);
  EXPECT_EQ(count(page, " dim\" data-point="), 1);
  EXPECT_EQ(count(page, "class=\"front\""), 2) << "one line a context";
}

TEST(MethodsCsv, HasAColumnForEachFigureAndProbe) {
  auto runs = small_sweep();
  runs[3].evaluation["probes"] = {
      {{"task", "mqar"}, {"length", 512}, {"depth", 0.5}, {"token_accuracy", 0.25}}};
  runs.push_back(plain_run("mqa", 2, 40));
  const std::string csv = report_csv(runs);
  EXPECT_EQ(csv.substr(0, csv.find("\r\n")),
            "checkpoint,architecture,method,retention,codec_k,codec_v,budget_tokens,seed,context,"
            "resident_mean_bytes,resident_max_bytes,resident_peak_bytes,payload_bytes,"
            "codec_metadata_bytes,index_bytes,policy_state_bytes,read_bytes_per_token,"
            "share_of_full,perplexity,perplexity_low,perplexity_high,perplexity_full,kl_to_full,"
            "top1_agreement,probe.mqar,protocol,dtype,corpus,split,stride,tokens,pareto");
  EXPECT_EQ(count(csv, "\r\n"), 8);
  EXPECT_NE(csv.find("\r\ngqa,GQA 8/2,\"h2o 64, q8_0/q8_0\",h2o,q8_0,q8_0,64,0,512,512,1024,1536,"
                     "512,48,40,56,512,0.125,21.5,21,22.25,20.5,0.125,0.875,0.25,decode,fp32,"
                     "data/stories.h5,validation,512,51234,true\r\n"),
            csv.npos)
      << csv;
  EXPECT_NE(csv.find("\r\nmqa,MQA 8,own cache,,,,,,512,513,,,,,,,,,40,,,,,,,decode,"), csv.npos)
      << csv;
}

TEST(MethodsJson, AddsWhatTheReportFound) {
  auto runs = small_sweep();
  runs[1].evaluation["probes"] = {
      {{"task", "mqar"}, {"length", 512}, {"depth", 0.5}, {"token_accuracy", 0.25}}};
  const Json report = Json::parse(report_json(runs, "t"));
  ASSERT_EQ(report["runs"].size(), runs.size());
  EXPECT_EQ(report["runs"][1]["method"]["name"], "h2o 64");
  EXPECT_EQ(report["runs"][1]["share_of_full"], 0.25);
  EXPECT_EQ(report["runs"][1]["probe_accuracy"]["mqar"], 0.25);
  EXPECT_EQ(report["runs"][1]["pareto"], true);
  EXPECT_EQ(report["runs"][2]["pareto"], false);
}

TEST(MethodsTable, ListsEveryPointAndWhatWasFound) {
  const std::string text = report_table(small_sweep());
  EXPECT_EQ(count(text, "gqa         "), 6) << text;
  EXPECT_EQ(text.find("-0.0000"), text.npos) << "a divergence that is negative by rounding";
  EXPECT_NE(text.find("h2o 64, q8_0/q8_0      512   512 B"), text.npos) << text;
  EXPECT_NE(text.find("protocol decode, context 2048"), text.npos);
}

TEST(ReadSweep, TakesEveryPointOfADirectory) {
  const TemporaryDirectory temporary;
  const auto runs = small_sweep();
  write_file(temporary / "LOCK", "");
  write_file(temporary / "gqa-full-model-model-512-0123456789ab.json", runs[0].evaluation.dump());
  write_file(temporary / "gqa-h2o-0.5-model-model-512-ba9876543210.json",
             runs[1].evaluation.dump());
  EXPECT_EQ(read_runs({temporary.path()}).size(), 2);
  write_file(temporary / "evaluation.json", evaluation("a", "MHA", 512, 12).dump());
  write_file(temporary / "unrelated.json", "{}");
  EXPECT_EQ(read_runs({temporary.path()}).size(), 3) << "a run's directory that also holds a sweep";

  const TemporaryDirectory by_hand;
  write_file(by_hand / "b.json", runs[0].evaluation.dump());
  write_file(by_hand / "a.json", runs[1].evaluation.dump());
  const auto read = read_runs({by_hand.path()});
  ASSERT_EQ(read.size(), 2);
  EXPECT_EQ(read[0].evaluation["method"]["name"], "h2o 64");
}

TEST(ReadSweep, NamesTheFileThatIsBroken) {
  const Json good = method_evaluation("gqa", "h2o", "model", 1024, 21);
  const auto with = [&](const char* pointer, const Json& value) {
    Json changed = good;
    changed[Json::json_pointer(pointer)] = value;
    return changed.dump();
  };
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{\n\"name\":", "broken.json:2: is not JSON"},
      {"{}", "broken.json: name: is missing"},
      {with("/method", 3), "broken.json: method.name: is missing"},
      {with("/method/codec_k", 3), "broken.json: method.codec_k: expected a text"},
      {with("/resident", 3), "broken.json: resident.mean_bytes: is missing"},
      {with("/resident/mean_bytes", -3), "resident.mean_bytes: found -3"},
      {with("/kl_to_full", nullptr), "broken.json: kl_to_full: is null"},
      {with("/perplexity_interval", {1}), "broken.json: perplexity_interval: expected two numbers"},
      {with("/perplexity_interval", {{"a", 1}, {"b", 2}}), "perplexity_interval: expected two"},
      {with("/probes", {3}), "broken.json: probes: expected objects"},
  };
  for (const auto& [text, message] : cases) {
    const TemporaryDirectory temporary;
    write_file(temporary / "a.json", good.dump());
    write_file(temporary / "broken.json", text);
    expect_error([&] { read_runs({temporary.path()}); }, ExitCode::kBadData, message);
  }
}

}  // namespace
}  // namespace kvsmith
