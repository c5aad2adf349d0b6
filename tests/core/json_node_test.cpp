#include "core/json_node.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

constexpr int kLevels = 8;

nlohmann::json document() {
  return parse_json(R"({"model": {"merges": [["a", "b"], ["c", 1]], "none": null},
                       "ratio": 0.5, "layers": 30, "most": 18446744073709551615, "tied": true})",
                    kLevels, "f.json");
}

TEST(ParseJson, SaysAtWhichByteATextEndsOrBreaks) {
  expect_error([] { parse_json("{\"a\": [1, 2", kLevels, "f.json"); }, ExitCode::kBadData,
               "malformed JSON at byte 12");
  expect_error([] { parse_json("[1, x]", kLevels, "f.json"); }, ExitCode::kBadData,
               "malformed JSON at byte 5");
  expect_error([] { parse_json("[\"\xff\"]", kLevels, "f.json"); }, ExitCode::kBadData, "f.json");
  expect_error([] { parse_ordered_json("{} {}", kLevels, "f.json"); }, ExitCode::kBadData,
               "malformed JSON at byte 4");
}

TEST(ParseJson, CountsLevelsOutsideOfTexts) {
  EXPECT_EQ(parse_json(R"([["[[[[", "\"[["]])", 2, "f.json").size(), 1U);
  expect_error([] { parse_json("[[[]]]", 2, "f.json"); }, ExitCode::kBadData,
               "more than 2 levels of JSON");
  // deep enough to overflow the stack of a parser that recurses
  expect_error([] { parse_ordered_json(std::string(1 << 22, '['), kLevels, "f.json"); },
               ExitCode::kBadData, "more than 8 levels of JSON");
}

TEST(ParseJson, KeepsTheOrderOfTheTextWhereAsked) {
  const std::string text = R"({"zeta":1,"alpha":{"y":2,"x":3},"mid":[]})";
  EXPECT_EQ(parse_ordered_json(text, kLevels, "f.json").dump(), text);
  EXPECT_EQ(parse_json(text, kLevels, "f.json").dump(),
            R"({"alpha":{"x":3,"y":2},"mid":[],"zeta":1})");
}

TEST(ReadJsonOf, SaysWhatIsWrongAndWhere) {
  const auto json = document();
  const auto read = [&](const char* key) {
    return read_json_of("f.json", [&] { return json.at(key).get<std::string>(); });
  };
  expect_error([&] { read("layers"); }, ExitCode::kBadData, "f.json: type must be string");
  expect_error([&] { read("missing"); }, ExitCode::kBadData, "f.json: key 'missing' not found");
  const auto refuse = [] { throw Error(ExitCode::kConfig, {"ours", "there", ""}); };
  expect_error([&] { read_json_of("f.json", refuse); }, ExitCode::kConfig, "there: ours");
}

TEST(JsonNode, FindsMembersAndElements) {
  const auto json = document();
  const JsonNode root(json, "f.json");
  EXPECT_EQ(root.at("model").at("merges")[0][1].text(), "b");
  EXPECT_EQ(root.at("model").at("merges").size(), 2U);
  EXPECT_EQ(root.at("layers").integer(1, 100), 30);
  EXPECT_EQ(root.at("ratio").number(0, 1), 0.5);
  EXPECT_TRUE(root.at("tied").boolean());
  EXPECT_FALSE(root.find("missing").has_value());
  EXPECT_FALSE(root.at("model").find("none").has_value());  // null is as good as missing
}

TEST(JsonNode, NamesThePathOfWhatIsWrong) {
  const auto json = document();
  const JsonNode root(json, "f.json");
  const auto merges = root.at("model").at("merges");
  expect_error([&] { merges[1][1].text(); }, ExitCode::kBadData, "f.json: model.merges[1][1]");
  expect_error([&] { root.at("model").at("vocab"); }, ExitCode::kBadData, "no \"vocab\"");
  expect_error([&] { merges.at("x"); }, ExitCode::kBadData, "expected an object");
  expect_error([&] { root.at("tied").size(); }, ExitCode::kBadData, "expected a list");
  expect_error([&] { root.at("layers").boolean(); }, ExitCode::kBadData, "expected true or false");
}

TEST(JsonNode, NumbersHaveBounds) {
  const auto json = document();
  const JsonNode root(json, "f.json");
  expect_error([&] { root.at("layers").integer(1, 29); }, ExitCode::kBadData,
               "expected a whole number from 1 to 29");
  expect_error([&] { root.at("ratio").integer(0, 1); }, ExitCode::kBadData, "found 0.5");
  expect_error([&] { root.at("most").integer(0, INT64_MAX); }, ExitCode::kBadData,
               "found 18446744073709551615");
  expect_error([&] { root.at("ratio").number(1, 2); }, ExitCode::kBadData,
               "expected a number from 1 to 2");
  expect_error([&] { root.at("tied").number(0, 2); }, ExitCode::kBadData, "found true");
}

TEST(JsonNode, RefusesWhatTheProgramDoesNotKnow) {
  const auto json = document();
  const JsonNode root(json, "f.json");
  root.expect_member("ratio", 0.5);
  root.expect_member("missing", "anything");
  expect_error([&] { root.expect_member("ratio", 1.0); }, ExitCode::kConfig,
               "only 1.0 is supported");
  root.at("model").expect_only({"merges", "none"});
  expect_error([&] { root.at("model").expect_only({"none"}); }, ExitCode::kConfig,
               "f.json: model.merges");
}

TEST(JsonNode, CutsLongValuesInMessages) {
  const nlohmann::json json = {{"text", std::string(1000, 'x')},
                               {"list", std::vector<int>(1000, 7)}};
  const JsonNode root(json, "f.json");
  expect_error([&] { root.at("text").boolean(); }, ExitCode::kBadData, "xxx...");
  expect_error([&] { root.at("list").boolean(); }, ExitCode::kBadData, "found a list of 1000");
}

}  // namespace
}  // namespace kvsmith
