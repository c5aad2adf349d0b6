#pragma once

#include <filesystem>

#include <nlohmann/json.hpp>

namespace kvsmith {

/// Writes a result as indented JSON. Names and paths may be any bytes: what is not UTF-8 becomes
/// U+FFFD. Errors: those of write_file.
void write_result(const std::filesystem::path& path, const nlohmann::ordered_json& result);

}  // namespace kvsmith
