#include "checkpoints/output_directory.h"

#include "core/error.h"
#include "core/files.h"

namespace kvsmith {

void expect_output_directory(const std::filesystem::path& output,
                             bool force,
                             const std::string& marker,
                             const std::string& what) {
  create_parents(output);
  expect_writable(output, force);
  if (!std::filesystem::is_directory(output) || std::filesystem::is_empty(output) ||
      std::filesystem::exists(output / marker)) {
    return;
  }
  throw Error(ExitCode::kCannotCreate,
              {"is a directory, and not of an earlier " + what, output.string(),
               "choose another --output; even with --force this is not replaced"});
}

void expect_output_file(const std::filesystem::path& output, bool force) {
  if (!output.has_filename() || std::filesystem::is_directory(output)) {
    throw Error(ExitCode::kCannotCreate,
                {"is a directory, and one file is written", output.string(), "name the file"});
  }
  create_parents(output);
  expect_writable(output, force);
}

}  // namespace kvsmith
