#include "data/tokenizer_json.h"

#include <algorithm>
#include <array>
#include <unordered_map>
#include <unordered_set>

#include "core/error.h"
#include "core/json_node.h"
#include "core/text.h"
#include "data/tokenizer_json_steps.h"

namespace kvsmith {
namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 20;
constexpr size_t kMaxMerges = size_t{1} << 22;
constexpr size_t kMaxTokenBytes = 4096;
constexpr int kMaxLevels = 16;

using Ids = std::unordered_map<std::string_view, int32_t>;

void check_length(const JsonNode& node, const std::string& token) {
  if (token.empty() || token.size() > kMaxTokenBytes)
    node.damaged(cat("tokens of 1 to ", kMaxTokenBytes, " bytes"));
}

/// Puts tokens at their ids and sees that none is left out or there twice.
class Pieces {
 public:
  explicit Pieces(std::vector<std::string>& pieces) : pieces_(pieces) {}

  void put(const JsonNode& node, int32_t id, const std::string& token) {
    check_length(node, token);
    if (static_cast<size_t>(id) >= pieces_.size()) pieces_.resize(id + 1);
    if (!pieces_[id].empty() && pieces_[id] != token)
      node.damaged(cat("an id of its own, ", id, " is that of \"", printable(pieces_[id]), "\""));
    pieces_[id] = token;
  }

  void expect_complete(const JsonNode& node) const {
    const auto gap = std::ranges::find(pieces_, "");
    if (gap != pieces_.end())
      throw Error(ExitCode::kBadData, {.what = cat("no token has the id ", gap - pieces_.begin(),
                                                   " of ", pieces_.size()),
                                       .where = node.place(),
                                       .remedy = "a damaged file, or a token that is there twice"});
  }

 private:
  std::vector<std::string>& pieces_;
};

void read_pieces(const JsonNode& root, TokenizerJson& out) {
  Pieces pieces(out.pieces);
  const JsonNode vocab = root.at("model").at("vocab");
  if (vocab.object().size() > kMaxTokens) vocab.damaged(cat("at most ", kMaxTokens, " tokens"));
  for (const auto& [token, value] : vocab.object().items()) {
    // A path for every token would cost more than all the rest.
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= kMaxTokens || token.empty())
      vocab.at(token).integer(0, kMaxTokens - 1);
    pieces.put(vocab, value.get<int32_t>(), token);
  }
  const auto added = root.find("added_tokens");
  std::unordered_set<std::string> contents;
  for (size_t i = 0; added && i < added->size(); ++i) {
    const JsonNode node = (*added)[i];
    const auto id = static_cast<int32_t>(node.at("id").integer(0, kMaxTokens - 1));
    const std::string& content = node.at("content").text();
    node.expect_only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    for (const char* flag : {"single_word", "lstrip", "rstrip"}) node.expect_member(flag, false);
    const auto known = vocab.object().find(content);
    if (known != vocab.object().end() && known->get<int32_t>() != id)
      node.at("id").damaged(cat(known->dump(), ", as in model.vocab"));
    if (!contents.insert(content).second) node.damaged("each token once");
    pieces.put(node.at("content"), id, content);
    const auto flag = [&](const char* name) {
      const auto member = node.find(name);
      return member && member->boolean();
    };
    out.added.push_back({.content = content,
                         .id = id,
                         .is_special = flag("special"),
                         .is_normalized = flag("normalized")});
  }
  if (out.pieces.empty()) vocab.damaged("at least one token");
  pieces.expect_complete(vocab);
}

/// Special tokens are no part of the text, so nothing may be merged from or to them.
Ids ids_of_text(const TokenizerJson& json) {
  Ids ids;
  ids.reserve(json.pieces.size());
  for (int32_t id = 0; id < std::ssize(json.pieces); ++id) ids.emplace(json.pieces[id], id);
  for (const auto& token : json.added)
    if (token.is_special) ids.erase(token.content);
  return ids;
}

/// The two sides, "a b" in older files, ["a", "b"] in newer ones.
std::array<std::string, 2> sides_of(const JsonNode& merge) {
  if (merge.is_array()) {
    if (merge.size() != 2) merge.damaged("two tokens");
    return {merge[0].text(), merge[1].text()};
  }
  const std::string& text = merge.text();
  const size_t space = text.find(' ');
  if (space == text.npos || text.find(' ', space + 1) != text.npos)
    merge.damaged("two tokens with a space between them");
  return {text.substr(0, space), text.substr(space + 1)};
}

void read_merges(const JsonNode& list, const Ids& ids, TokenizerJson& out) {
  if (list.size() > kMaxMerges) list.damaged(cat("at most ", kMaxMerges, " merges"));
  std::unordered_set<uint64_t> seen;
  seen.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    const JsonNode merge = list[i];
    const auto sides = sides_of(merge);
    const auto id_of = [&](const std::string& token) {
      const auto found = ids.find(token);
      if (found == ids.end())
        merge.damaged(cat("tokens of the vocabulary; \"", printable(token), "\" is none"));
      return found->second;
    };
    const ByteBpe::Merge ready{id_of(sides[0]), id_of(sides[1]), id_of(sides[0] + sides[1])};
    const uint64_t pair =
        static_cast<uint64_t>(ready.left) << 32 | static_cast<uint32_t>(ready.right);
    if (!seen.insert(pair).second) merge.damaged("each merge once");
    out.merges.push_back(ready);
  }
}

void read_model(const JsonNode& root, TokenizerJson& out) {
  const JsonNode model = root.at("model");
  const auto type = model.find("type");
  if (type && type->text() != "BPE") type->unsupported("only \"BPE\" is supported");
  model.expect_only({"type", "dropout", "unk_token", "continuing_subword_prefix",
                     "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges", "vocab",
                     "merges"});
  model.expect_member("dropout", 0.0);
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"})
    model.expect_member(affix, "");
  for (const char* flag : {"fuse_unk", "byte_fallback"}) model.expect_member(flag, false);
  if (const auto flag = model.find("ignore_merges")) out.takes_whole_words = flag->boolean();
  read_pieces(root, out);
  read_merges(model.at("merges"), ids_of_text(out), out);
  if (const auto unk = model.find("unk_token")) {
    const auto found = std::ranges::find(out.pieces, unk->text());
    if (found == out.pieces.end()) unk->damaged("a token of the vocabulary");
    out.unk_id = static_cast<int32_t>(found - out.pieces.begin());
  }
}

}  // namespace

bool is_tokenizer_json(std::string_view bytes) {
  constexpr std::string_view kWhite = " \t\r\n";
  const size_t brace = bytes.find_first_not_of(kWhite);
  if (brace == bytes.npos || bytes[brace] != '{') return false;
  const size_t next = bytes.find_first_not_of(kWhite, brace + 1);
  return next == bytes.npos || bytes[next] == '"' || bytes[next] == '}';
}

TokenizerJson parse_tokenizer_json(std::string_view bytes, const std::string& where) {
  const nlohmann::json document = parse_json(bytes, kMaxLevels, where);
  const JsonNode root(document, where);
  root.expect_only({"version", "truncation", "padding", "added_tokens", "normalizer",
                    "pre_tokenizer", "post_processor", "decoder", "model"});
  root.expect_member("version", "1.0");
  for (const char* key : {"truncation", "padding"}) root.expect_member(key, nullptr);
  TokenizerJson out;
  read_model(root, out);
  read_normalizer(root, out);
  read_pre_tokenizer(root, out);
  read_post_processor(root, out);
  read_decoder(root, out);
  return out;
}

}  // namespace kvsmith
