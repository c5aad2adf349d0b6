#include "data/tokenizer_json_steps.h"

#include <algorithm>
#include <array>

#include "core/text.h"

namespace kvsmith {
namespace {

const std::string& type_of(const JsonNode& step) { return step.at("type").text(); }

int32_t special_id(const JsonNode& name, const TokenizerJson& json) {
  const auto found = std::ranges::find(json.added, name.text(), &TokenizerJson::Added::content);
  if (found == json.added.end()) name.damaged("a token that is in added_tokens");
  return found->id;
}

/// The first of the names that a special token has.
int32_t well_known(std::initializer_list<std::string_view> names, const TokenizerJson& json) {
  for (const std::string_view name : names)
    for (const auto& token : json.added)
      if (token.is_special && token.content == name) return token.id;
  return -1;
}

void check_byte_level(const JsonNode& step, bool uses_regex) {
  step.expect_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
  // Both are true where the file does not say.
  if (step.at("add_prefix_space").boolean())
    step.at("add_prefix_space").unsupported("only false is supported");
  const auto flag = step.find("use_regex");
  if ((!flag || flag->boolean()) != uses_regex)
    (flag ? *flag : step).unsupported(cat("only use_regex = ", uses_regex, " is supported here"));
}

PreTokenizer of_split(const JsonNode& split) {
  split.expect_only({"type", "pattern", "behavior", "invert"});
  split.expect_member("behavior", "Isolated");
  split.expect_member("invert", false);
  const JsonNode regex = split.at("pattern").at("Regex");
  const auto kind = pre_tokenizer_of_regex(regex.text());
  if (!kind)
    regex.unsupported(
        cat("only the expressions of ", join(pre_tokenizer_names()), " are supported"));
  return *kind;
}

PreTokenizer of_sequence(const JsonNode& steps) {
  if (steps.size() != 2) steps.unsupported("only Digits or Split, then ByteLevel, are supported");
  const std::string& first = type_of(steps[0]);
  if (type_of(steps[1]) != "ByteLevel")
    steps[1].at("type").unsupported("only ByteLevel is supported");
  if (first == "Digits") {
    steps[0].expect_only({"type", "individual_digits"});
    const JsonNode flag = steps[0].at("individual_digits");
    if (!flag.boolean()) flag.unsupported("only true is supported");
    check_byte_level(steps[1], true);
    return PreTokenizer::kSmollm;
  }
  if (first != "Split") steps[0].at("type").unsupported("only Digits and Split are supported");
  check_byte_level(steps[1], false);
  return of_split(steps[0]);
}

void read_template(const JsonNode& step, TokenizerJson& out) {
  const JsonNode single = step.at("single");
  bool seen_text = false;
  for (size_t i = 0; i < single.size(); ++i) {
    if (single[i].find("Sequence")) {
      seen_text = true;
      continue;
    }
    const JsonNode id = single[i].at("SpecialToken").at("id");
    if (seen_text) continue;  // end-of-text, which a corpus has after every document anyway
    if (out.adds_bos) single.unsupported("only one token before a text is supported");
    out.bos_id = special_id(id, out);
    out.adds_bos = true;
  }
}

void read_post_step(const JsonNode& step, TokenizerJson& out) {
  const std::string& type = type_of(step);
  if (type == "TemplateProcessing") return read_template(step, out);
  // ByteLevel only moves offsets.
  if (type != "ByteLevel")
    step.at("type").unsupported("only ByteLevel and TemplateProcessing are supported");
}

}  // namespace

void read_normalizer(const JsonNode& root, TokenizerJson& out) {
  const auto step = root.find("normalizer");
  if (!step) return;
  if (type_of(*step) != "NFC") step->at("type").unsupported("only NFC, or none, is supported");
  out.normalizes = true;
}

void read_pre_tokenizer(const JsonNode& root, TokenizerJson& out) {
  const JsonNode step = root.at("pre_tokenizer");
  const std::string& type = type_of(step);
  if (type == "ByteLevel") {
    check_byte_level(step, true);
    out.pre_tokenizer = PreTokenizer::kGpt2;
  } else if (type == "Sequence") {
    out.pre_tokenizer = of_sequence(step.at("pretokenizers"));
  } else {
    step.at("type").unsupported("only ByteLevel and Sequence are supported");
  }
}

void read_post_processor(const JsonNode& root, TokenizerJson& out) {
  const auto step = root.find("post_processor");
  if (!step) return;
  if (type_of(*step) != "Sequence") return read_post_step(*step, out);
  const JsonNode steps = step->at("processors");
  for (size_t i = 0; i < steps.size(); ++i) read_post_step(steps[i], out);
}

void read_decoder(const JsonNode& root, TokenizerJson& out) {
  const JsonNode decoder = root.at("decoder");
  if (type_of(decoder) != "ByteLevel")
    decoder.at("type").unsupported("only ByteLevel is supported");
  const auto ours = decoder.find("kvsmith");
  if (!ours) {
    if (out.bos_id < 0) out.bos_id = well_known({"<|begin_of_text|>", "<s>"}, out);
    out.eos_id = well_known({"<|endoftext|>", "<|end_of_text|>", "</s>", "<|im_end|>"}, out);
    out.pad_id = well_known({"<|pad|>", "<|finetune_right_pad_id|>", "<pad>"}, out);
    return;
  }
  ours->expect_only({"bos_token", "eos_token", "pad_token", "chat_template"});
  const auto id = [&](const char* key) {
    const auto name = ours->find(key);
    return name ? special_id(*name, out) : -1;
  };
  if (const auto name = ours->find("bos_token")) {
    const int32_t bos = special_id(*name, out);
    if (out.adds_bos && bos != out.bos_id)
      name->damaged(cat("\"", out.pieces[out.bos_id], "\", as in post_processor"));
    out.bos_id = bos;
  }
  out.eos_id = id("eos_token");
  out.pad_id = id("pad_token");
  if (const auto jinja = ours->find("chat_template")) out.chat_template = jinja->text();
}

}  // namespace kvsmith
