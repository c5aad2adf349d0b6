#include "data/tokenizer_json_writer.h"

#include <algorithm>
#include <unordered_set>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json_node.h"
#include "core/text.h"
#include "data/pre_tokenizer.h"
#include "data/tokenizer_json.h"
#include "data/utf8.h"

namespace kvsmith {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxLevels = 16;
constexpr const char* kControlNames[] = {"bos_token", "eos_token", "pad_token"};

[[noreturn]] void refuse(const std::string& what, const std::string& where) {
  throw Error(ExitCode::kBadData, {.what = what, .where = where, .remedy = "a damaged file?"});
}

/// Everything is as its type says, and ids are within the list.
void check(const TokenizerParts& parts, const std::string& where) {
  const size_t count = parts.tokens.size();
  if (!parts.token_types.empty() && parts.token_types.size() != count)
    refuse(cat(parts.token_types.size(), " token types for ", count, " tokens"), where);
  std::unordered_set<std::string_view> seen;
  for (size_t id = 0; id < count; ++id) {
    const std::string& token = parts.tokens[id];
    if (find_invalid_utf8(token) < token.size()) refuse(cat("token ", id, " is not UTF-8"), where);
    if (!seen.insert(token).second)
      refuse(cat("token ", id, ", \"", printable(token), "\", is there twice"), where);
  }
  for (size_t i = 0; i < parts.merges.size(); ++i)
    if (find_invalid_utf8(parts.merges[i]) < parts.merges[i].size())
      refuse(cat("merge ", i, " is not UTF-8"), where);
  for (const int32_t type : parts.token_types)
    if (type < TokenizerParts::kNormal || type > TokenizerParts::kByte)
      refuse(cat("a token of type ", type, ", not 1 to 6"), where);
  for (const int32_t id : {parts.bos_id, parts.eos_id, parts.pad_id})
    if (id < -1 || id >= std::ssize(parts.tokens))
      refuse(cat("control token ", id, " in a vocabulary of ", count), where);
  if (parts.adds_bos && parts.bos_id < 0)
    refuse("texts are to begin with a token that is not there", where);
}

/// A list or object with one element a line: the library's own would take quadratic time for
/// objects that keep their order.
template <class Element>
std::string lines(char open, size_t count, char close, const Element& element) {
  std::string out(1, open);
  for (size_t i = 0; i < count; ++i) out += cat(i == 0 ? "\n" : ",\n", element(i));
  return out + "\n" + close;
}

std::string added_tokens(const TokenizerParts& parts) {
  Json list = Json::array();
  for (int32_t id = 0; id < std::ssize(parts.tokens); ++id) {
    const bool is_named = id == parts.bos_id || id == parts.eos_id || id == parts.pad_id;
    const int32_t type =
        parts.token_types.empty() ? TokenizerParts::kNormal : parts.token_types[id];
    if (!is_named && (type == TokenizerParts::kNormal || type == TokenizerParts::kByte)) continue;
    list.push_back({{"id", id},
                    {"content", parts.tokens[id]},
                    {"single_word", false},
                    {"lstrip", false},
                    {"rstrip", false},
                    {"normalized", false},
                    {"special", is_named || type != TokenizerParts::kUserDefined}});
  }
  return lines('[', list.size(), ']', [&](size_t i) { return list[i].dump(); });
}

Json byte_level(bool uses_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", uses_regex}};
}

Json pre_tokenizer(PreTokenizer kind) {
  if (kind == PreTokenizer::kGpt2) return byte_level(true);
  if (kind == PreTokenizer::kSmollm)
    return {
        {"type", "Sequence"},
        {"pretokenizers", {{{"type", "Digits"}, {"individual_digits", true}}, byte_level(true)}}};
  const Json split{{"type", "Split"},
                   {"pattern", {{"Regex", regex_of(kind)}}},
                   {"behavior", "Isolated"},
                   {"invert", false}};
  return {{"type", "Sequence"}, {"pretokenizers", {split, byte_level(false)}}};
}

Json post_processor(const TokenizerParts& parts) {
  if (!parts.adds_bos) return byte_level(true);
  const std::string& bos = parts.tokens[parts.bos_id];
  const auto special = [&](int type) {
    return Json{{"SpecialToken", {{"id", bos}, {"type_id", type}}}};
  };
  const auto text = [](const char* name, int type) {
    return Json{{"Sequence", {{"id", name}, {"type_id", type}}}};
  };
  return {
      {"type", "Sequence"},
      {"processors",
       {byte_level(true),
        {{"type", "TemplateProcessing"},
         {"single", {special(0), text("A", 0)}},
         {"pair", {special(0), text("A", 0), special(1), text("B", 1)}},
         {"special_tokens", {{bos, {{"id", bos}, {"ids", {parts.bos_id}}, {"tokens", {bos}}}}}}}}}};
}

Json decoder(const TokenizerParts& parts) {
  Json ours = Json::object();
  const int32_t ids[] = {parts.bos_id, parts.eos_id, parts.pad_id};
  for (size_t i = 0; i < std::size(ids); ++i)
    if (ids[i] >= 0) ours[kControlNames[i]] = parts.tokens[ids[i]];
  if (!parts.chat_template.empty()) ours["chat_template"] = parts.chat_template;
  Json decoder = byte_level(true);
  decoder["kvsmith"] = ours;
  return decoder;
}

/// Where the object "decoder" of a valid tokenizer.json begins, after its brace.
size_t inside_decoder(std::string_view json) {
  int level = 0;
  bool in_text = false;
  size_t text_begin = 0;
  std::string_view last_text;
  for (size_t at = 0; at < json.size(); ++at) {
    const char c = json[at];
    if (in_text) {
      if (c == '\\') ++at;
      if (c == '"') {
        in_text = false;
        last_text = json.substr(text_begin, at - text_begin);
      }
    } else if (c == '"') {
      in_text = true;
      text_begin = at + 1;
    } else if (c == '{' || c == '[') {
      if (c == '{' && level == 1 && last_text == "decoder") return at + 1;
      ++level;
    } else if (c == '}' || c == ']') {
      --level;
    }
  }
  return json.npos;
}

/// The name of a control token, which is a text or an object around one.
std::string name_of(const JsonNode& config, const char* key) {
  const auto member = config.find(key);
  if (!member) return "";
  return member->is_object() ? member->at("content").text() : member->text();
}

/// Whether a tokenizer.json has `token` among those that were added.
bool has_added(const JsonNode& document, const std::string& token) {
  const auto added = document.find("added_tokens");
  for (size_t i = 0; added && i < added->size(); ++i)
    if ((*added)[i].at("content").text() == token) return true;
  return false;
}

}  // namespace

std::string chat_template_of(const JsonNode& config) {
  const auto member = config.find("chat_template");
  if (!member) return "";
  if (!member->is_array()) return member->text();
  for (size_t i = 0; i < member->size(); ++i)
    if ((*member)[i].at("name").text() == "default") return (*member)[i].at("template").text();
  return "";
}

std::string make_tokenizer_json(const TokenizerParts& parts, const std::string& where) {
  check(parts, where);
  const auto kind = pre_tokenizer_named(parts.pre);
  if (!kind)
    throw Error(ExitCode::kConfig, {.what = cat("the pre-tokenizer \"", printable(parts.pre), "\""),
                                    .where = where,
                                    .remedy = cat("supported are ", join(pre_tokenizer_names()))});
  const Json normalizer = *kind == PreTokenizer::kQwen2 ? Json{{"type", "NFC"}} : Json(nullptr);
  const Json model{{"type", "BPE"},
                   {"dropout", nullptr},
                   {"unk_token", nullptr},
                   {"continuing_subword_prefix", nullptr},
                   {"end_of_word_suffix", nullptr},
                   {"fuse_unk", false},
                   {"byte_fallback", false},
                   {"ignore_merges", *kind == PreTokenizer::kLlama3}};
  std::string out = cat("{\"version\": \"1.0\",\n\"truncation\": null,\n\"padding\": null,\n",
                        "\"added_tokens\": ", added_tokens(parts), ",\n");
  out += cat("\"normalizer\": ", normalizer.dump(),
             ",\n\"pre_tokenizer\": ", pre_tokenizer(*kind).dump(),
             ",\n\"post_processor\": ", post_processor(parts).dump(),
             ",\n\"decoder\": ", decoder(parts).dump(), ",\n\"model\": ");
  std::string settings = model.dump();
  settings.pop_back();
  out += cat(
      settings, ",\n\"vocab\": ",
      lines('{', parts.tokens.size(), '}',
            [&](size_t id) { return cat(Json(parts.tokens[id]).dump(), ": ", id); }),
      ",\n\"merges\": ",
      lines('[', parts.merges.size(), ']', [&](size_t i) { return Json(parts.merges[i]).dump(); }),
      "}}\n");
  parse_tokenizer_json(out, where);
  return out;
}

std::string with_companions(const std::string& json,
                            std::string_view config,
                            const std::string& jinja,
                            const std::string& where) {
  if (config.empty() && jinja.empty()) return json;
  const auto document = parse_json(json, kMaxLevels, where);
  const JsonNode decoder = JsonNode(document, where).at("decoder");
  if (decoder.find("kvsmith")) return json;
  const auto parsed = parse_json(config.empty() ? "{}" : config, kMaxLevels, where);
  const JsonNode beside(parsed, cat("tokenizer_config.json beside ", where));
  Json ours = Json::object();
  for (const char* key : kControlNames) {
    const std::string name = name_of(beside, key);
    if (name.empty()) continue;
    if (has_added(JsonNode(document, where), name)) {
      ours[key] = name;
    } else if (key != std::string_view("pad_token")) {  // which is not needed
      beside.at(key).damaged(cat("a token that ", where, " has in added_tokens"));
    }
  }
  const std::string chat = jinja.empty() ? chat_template_of(beside) : jinja;
  if (!chat.empty()) ours["chat_template"] = chat;
  const size_t at = inside_decoder(json);
  std::string out = json;
  return out.insert(at, cat("\"kvsmith\": ", ours.dump(), ", "));
}

}  // namespace kvsmith
