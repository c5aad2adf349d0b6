#include "data/hf_byte_level.h"

#include <nlohmann/json.hpp>

namespace kvsmith {
namespace {

using Json = nlohmann::ordered_json;

Json special_tokens(const Tokenizer& tokenizer) {
  Json names = Json::object();
  if (!tokenizer.bos_piece().empty()) names["bos_token"] = tokenizer.bos_piece();
  const auto add = [&](const char* key, int32_t id) {
    if (id >= 0) names[key] = tokenizer.piece(id);
  };
  add("eos_token", tokenizer.eos_id());
  add("pad_token", tokenizer.pad_id());
  add("unk_token", tokenizer.unk_id());
  return names;
}

Json added_tokens(const Tokenizer& tokenizer) {
  Json tokens = Json::object();
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id)
    if (tokenizer.is_special(id))
      tokens[std::to_string(id)] = {{"content", tokenizer.piece(id)},
                                    {"lstrip", false},
                                    {"normalized", false},
                                    {"rstrip", false},
                                    {"single_word", false},
                                    {"special", true}};
  return tokens;
}

}  // namespace

std::map<std::string, std::string> hf_byte_level_files(const Tokenizer& tokenizer,
                                                       int64_t max_positions) {
  Json config{{"tokenizer_class", "PreTrainedTokenizerFast"},
              {"add_prefix_space", false},
              {"added_tokens_decoder", added_tokens(tokenizer)},
              {"clean_up_tokenization_spaces", false},
              {"model_input_names", {"input_ids", "attention_mask"}},
              {"model_max_length", max_positions},
              {"split_special_tokens", tokenizer.chat_template().empty()}};
  config.update(special_tokens(tokenizer));
  if (!tokenizer.chat_template().empty()) config["chat_template"] = tokenizer.chat_template();
  return {{"tokenizer.json", tokenizer.bytes()},
          {"tokenizer_config.json", config.dump(2) + "\n"},
          {"special_tokens_map.json", special_tokens(tokenizer).dump(2) + "\n"}};
}

}  // namespace kvsmith
