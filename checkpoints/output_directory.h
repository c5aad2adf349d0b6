#pragma once

#include <filesystem>
#include <string>

namespace kvsmith {

/// Makes sure that `output` may become a directory of ours, and creates its parents. Call before
/// long work starts. Throws Error (73) when it exists and `force` is not set, or when it is a
/// directory that holds something but not the file `marker`: not one of an earlier `what`.
void expect_output_directory(const std::filesystem::path& output,
                             bool force,
                             const std::string& marker,
                             const std::string& what);

/// The same for a file. Throws Error (73) besides when `output` is a directory or names no file.
void expect_output_file(const std::filesystem::path& output, bool force);

}  // namespace kvsmith
