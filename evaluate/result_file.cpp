#include "evaluate/result_file.h"

#include "core/files.h"

namespace kvsmith {

void write_result(const std::filesystem::path& path, const nlohmann::ordered_json& result) {
  using Json = nlohmann::ordered_json;
  write_file(path,
             result.dump(2, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace) + "\n");
}

}  // namespace kvsmith
