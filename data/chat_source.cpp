#include "data/chat_source.h"

#include "core/error.h"
#include "core/text.h"
#include "data/text_source.h"

namespace kvsmith {
namespace {

bool holds_chats(std::filesystem::path path) {
  if (path == "-") return true;
  if (path.extension() == ".gz" || path.extension() == ".zst") path = path.stem();
  return path.extension() == ".jsonl";
}

}  // namespace

ChatSource::ChatSource(const std::vector<std::string>& inputs) : files_(expand_inputs(inputs)) {
  for (const auto& file : files_) {
    if (holds_chats(file)) continue;
    throw Error(ExitCode::kBadData, {.what = "chats are .jsonl, plain or .gz or .zst",
                                     .where = file.string(),
                                     .remedy = "rename it if it is one of them"});
  }
}

bool ChatSource::next(std::vector<ChatMessage>& chat) {
  while (reader_ || next_file_ < files_.size()) {
    if (!reader_) {
      reader_.emplace(files_[next_file_++]);
      style_.reset();
    }
    for (std::string_view line; reader_->next(line);) {
      if (line.find_first_not_of(" \t\v\f") == line.npos) continue;
      if (!style_) style_ = chat_style_of(line, reader_->where());
      chat = parse_chat(line, *style_, reader_->where());
      return true;
    }
    sources_.push_back(reader_->record());
    reader_.reset();
  }
  return false;
}

}  // namespace kvsmith
