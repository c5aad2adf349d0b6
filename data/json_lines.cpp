#include "data/json_lines.h"

#include "core/error.h"
#include "core/text.h"
#include "data/text_source.h"

namespace kvsmith {
namespace {

bool is_jsonl(std::filesystem::path path) {
  if (path == "-") return true;
  if (path.extension() == ".gz" || path.extension() == ".zst") path = path.stem();
  return path.extension() == ".jsonl";
}

}  // namespace

JsonLines::JsonLines(const std::vector<std::string>& inputs, const std::string& what)
    : files_(expand_inputs(inputs)) {
  for (const auto& file : files_) {
    if (is_jsonl(file)) continue;
    throw Error(ExitCode::kBadData, {.what = what + " are .jsonl, plain or .gz or .zst",
                                     .where = file.string(),
                                     .remedy = "rename it if it is one of them"});
  }
}

bool JsonLines::next(std::string_view& line) {
  is_first_ = false;
  while (reader_ || next_file_ < files_.size()) {
    if (!reader_) {
      reader_.emplace(files_[next_file_++]);
      is_first_ = true;
    }
    while (reader_->next(line))
      if (line.find_first_not_of(" \t\v\f") != line.npos) return true;
    sources_.push_back(reader_->record());
    reader_.reset();
  }
  return false;
}

}  // namespace kvsmith
