#include "data/chat_writer.h"

#include <algorithm>

namespace kvsmith {
namespace {

void add(ChatDocument& document, int32_t id, bool is_learnt) {
  document.ids.push_back(id);
  document.learnt.push_back(is_learnt ? 1 : 0);
}

}  // namespace

uint64_t ChatDocument::learnt_tokens() const {
  return static_cast<uint64_t>(std::ranges::count(learnt, 1));
}

ChatWriter::ChatWriter(const ChatOptions& options, const Tokenizer& tokenizer)
    : tokenizer_(tokenizer),
      template_(options.format.empty() ? ChatTemplate::recognize(tokenizer.chat_template())
                                       : ChatTemplate(ChatTemplate::format_named(options.format))),
      longest_(options.max_tokens > 0 ? static_cast<size_t>(options.max_tokens) : SIZE_MAX),
      truncates_(options.overflow == "truncate") {
  if (template_.end_of_turn().empty()) {
    bos_ = tokenizer.bos_id();
    eos_ = tokenizer.eos_id();
  }
}

bool ChatWriter::is_format_of_tokenizer() const {
  return ChatTemplate::format_of(tokenizer_.chat_template()) == format();
}

std::optional<ChatDocument> ChatWriter::write(const std::vector<ChatMessage>& chat) const {
  ChatTokens tokens = template_.tokens(tokenizer_, chat, /*asks=*/false);
  const size_t marks = (bos_ >= 0 ? 1 : 0) + (eos_ >= 0 ? 1 : 0);
  size_t turns = chat.size();
  if (!truncates_ && tokens.ids.size() + marks > longest_) {
    const auto fits = [&](const ChatTokens::Answer& a) { return a.ids + marks <= longest_; };
    const auto kept = std::ranges::partition_point(tokens.answers, fits);
    if (kept == tokens.answers.begin()) return std::nullopt;
    turns = std::prev(kept)->messages;
    tokens.ids.resize(std::prev(kept)->ids);
    tokens.learnt.resize(std::prev(kept)->ids);
  }
  ChatDocument out = enclosed(tokens, bos_, eos_);
  out.turns = turns;
  out.dropped_turns = chat.size() - turns;
  if (!fit(out)) return std::nullopt;
  return out;
}

ChatDocument ChatWriter::whole(const std::vector<ChatMessage>& chat) const {
  ChatDocument out = enclosed(template_.tokens(tokenizer_, chat, /*asks=*/false), bos_, eos_);
  out.turns = chat.size();
  return out;
}

ChatDocument ChatWriter::whole(const std::string& prompt, const std::string& answer) const {
  ChatTokens tokens;
  tokenizer_.encode_to(tokens.ids, prompt, Tokenizer::Begin::kText);
  tokens.learnt.resize(tokens.ids.size(), 0);
  tokenizer_.encode_to(tokens.ids, answer,
                       prompt.empty() ? Tokenizer::Begin::kText : Tokenizer::Begin::kInside);
  tokens.learnt.resize(tokens.ids.size(), 1);
  return enclosed(tokens, tokenizer_.bos_id(), tokenizer_.eos_id());
}

bool ChatWriter::fit(ChatDocument& document) const {
  if (document.ids.size() > longest_) {
    if (!truncates_) return false;
    document.ids.resize(longest_);
    document.learnt.resize(longest_);
    document.is_truncated = true;
  }
  return document.learnt_tokens() > 0;
}

uint64_t ChatWriter::text_bytes(const ChatDocument& document) const {
  return tokenizer_.decode(document.ids).size();
}

ChatDocument ChatWriter::enclosed(const ChatTokens& tokens, int32_t bos, int32_t eos) {
  ChatDocument out;
  if (bos >= 0) add(out, bos, false);
  out.ids.insert(out.ids.end(), tokens.ids.begin(), tokens.ids.end());
  out.learnt.insert(out.learnt.end(), tokens.learnt.begin(), tokens.learnt.end());
  if (eos >= 0) add(out, eos, !tokens.learnt.empty() && tokens.learnt.back() != 0);
  return out;
}

}  // namespace kvsmith
