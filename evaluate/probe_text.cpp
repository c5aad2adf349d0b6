#include "evaluate/probe_text.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/text.h"
#include "data/tokenizer.h"

namespace kvsmith {
namespace {

constexpr uint64_t kSlice = 4096;  ///< tokens read at a time

/// Whether each id of the vocabulary stands for text.
std::vector<bool> text_ids(const CorpusInfo& info) {
  std::vector<bool> out(static_cast<size_t>(info.vocab_size), true);
  const auto leave_out = [&](int32_t id) {
    if (id >= 0) out[static_cast<size_t>(id)] = false;
  };
  leave_out(info.bos_id);
  leave_out(info.eos_id);
  if (!info.tokenizer_model.empty()) {
    const auto tokenizer = Tokenizer::from_bytes(info.tokenizer_model, "the corpus");
    leave_out(tokenizer.unk_id());
    for (int32_t id = 0; id < std::min(tokenizer.vocab_size(), info.vocab_size); ++id)
      if (tokenizer.is_special(id)) leave_out(id);
  }
  return out;
}

}  // namespace

ProbeText::ProbeText(std::vector<int64_t> symbols, int64_t bos_id)
    : symbols_(std::move(symbols)), bos_id_(bos_id) {}

ProbeText ProbeText::of_corpus(const Corpus& corpus, const std::string& name) {
  constexpr uint64_t kLookedAt = 1 << 20;
  auto split = corpus.split(name);
  auto is_text = text_ids(corpus.info());
  std::set<int64_t> occurring;
  std::vector<int32_t> ids;
  const uint64_t end = std::min(split->tokens(), kLookedAt);
  for (uint64_t first = 0; first < end; first += kSlice) {
    ids.resize(std::min(kSlice, end - first));
    split->read(first, ids);
    for (const int32_t id : ids)
      if (is_text[static_cast<size_t>(id)]) occurring.insert(id);
  }
  ProbeText out({occurring.begin(), occurring.end()}, corpus.info().bos_id);
  out.is_text_ = std::move(is_text);
  out.split_ = std::move(split);
  return out;
}

std::vector<int64_t> ProbeText::distinct(Draws& draws, int64_t count) const {
  if (count > std::ssize(symbols_)) {
    throw Error(
        ExitCode::kUsage,
        {cat("a sequence of ", count, " different tokens, of ", symbols_.size(), " that there are"),
         "probe", "ask for fewer key tokens or pairs, or a shorter segment"});
  }
  std::vector<int64_t> out;
  std::set<uint64_t> taken;
  while (std::ssize(out) < count) {
    const uint64_t at = draws.below(symbols_.size());
    if (taken.insert(at).second) out.push_back(symbols_[at]);
  }
  return out;
}

std::vector<int64_t> ProbeText::filler(Draws& draws,
                                       int64_t count,
                                       const std::vector<int64_t>& avoid) const {
  const auto expect_any = [](bool any) {
    if (any) return;
    throw Error(ExitCode::kBadData,
                {"no tokens are left to fill a sequence with", "probe",
                 "use a corpus of more different tokens, or ask for fewer key tokens or pairs"});
  };
  std::vector<int64_t> out;
  if (!split_) {
    std::vector<int64_t> others;
    for (const int64_t id : symbols_)
      if (std::ranges::find(avoid, id) == avoid.end()) others.push_back(id);
    expect_any(count == 0 || !others.empty());
    while (std::ssize(out) < count) out.push_back(others[draws.below(others.size())]);
    return out;
  }
  std::vector<bool> wanted = is_text_;
  for (const int64_t id : avoid) wanted[static_cast<size_t>(id)] = false;
  const uint64_t end = split_->tokens();
  uint64_t at = end > 0 ? draws.below(end) : 0, looked_at = 0;
  std::vector<int32_t> ids;
  while (std::ssize(out) < count) {
    expect_any(!out.empty() || looked_at < end);
    ids.resize(std::min(kSlice, end - at));
    split_->read(at, ids);
    looked_at += ids.size();
    at = (at + ids.size()) % end;  // a short split comes round again
    for (const int32_t id : ids)
      if (wanted[static_cast<size_t>(id)] && std::ssize(out) < count) out.push_back(id);
  }
  return out;
}

}  // namespace kvsmith
