#include "evaluate/result_file.h"

#include <gtest/gtest.h>

#include "core/files.h"
#include "tests/support/temporary_directory.h"

namespace kvsmith {
namespace {

TEST(ResultFile, TakesNamesThatAreNotUtf8) {
  const TemporaryDirectory directory;
  write_result(directory / "r.json", {{"name", "r\xe9sum\xe9"}, {"tokens", 3}});
  const auto json = nlohmann::json::parse(read_file(directory / "r.json"));
  EXPECT_EQ(json["name"], "r\xef\xbf\xbdsum\xef\xbf\xbd");
  EXPECT_EQ(json["tokens"], 3);
}

}  // namespace
}  // namespace kvsmith
