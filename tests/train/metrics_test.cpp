#include "train/metrics.h"

#include <algorithm>
#include <csignal>

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "core/error.h"
#include "tests/support/child.h"
#include "tests/support/temporary_directory.h"

namespace kvsmith {
namespace {

void limit_file_size(rlim_t bytes) {
  const rlimit limit{.rlim_cur = bytes, .rlim_max = RLIM_INFINITY};
  ::setrlimit(RLIMIT_FSIZE, &limit);
}

TEST(MetricsLog, LosesNothingWhenTheDiskIsFullForAWhile) {
  constexpr int64_t kSteps = 5;
  constexpr rlim_t kAboutTwoLines = 300;
  const TemporaryDirectory directory;
  const int code = in_child([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    MetricsLog log(directory.path(), 0, /*tensorboard=*/true);
    limit_file_size(kAboutTwoLines);
    for (int64_t step = 1; step <= kSteps; ++step) {
      StepReport report;
      report.step = step;
      report.batch_tokens = 1;
      report.seconds = 1;
      log.log(report, std::nullopt, 0);
    }
    int failures = 0;
    try {
      log.sync();
    } catch (const Error& error) {
      failures += error.code() == ExitCode::kIo;
    }
    limit_file_size(RLIM_INFINITY);
    log.sync();
    return failures == 1 ? 0 : 1;
  });
  EXPECT_EQ(code, 0);
  const std::string text = read_file(directory / "metrics.jsonl");
  EXPECT_EQ(std::ranges::count(text, '\n'), kSteps) << text;
}

}  // namespace
}  // namespace kvsmith
