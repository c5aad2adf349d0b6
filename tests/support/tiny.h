#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>

#include "configs/run_config.h"
#include "core/random.h"
#include "data/corpus.h"
#include "tests/support/temporary_directory.h"

namespace kvsmith {

/// A model of a few thousand parameters. `kv_heads` of 4 query heads; `change` is applied before
/// defaults are filled in.
inline ModelConfig tiny_model(int64_t kv_heads = 2,
                              const std::function<void(ModelConfig&)>& change = {}) {
  ModelConfig config;
  config.vocab_size = 67;
  config.hidden_size = 32;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 4;
  config.num_key_value_heads = kv_heads;
  config.max_position_embeddings = 128;
  config.initializer_range = 0.1;
  if (change) change(config);
  const auto problems = fill_in(config);
  if (!problems.empty()) throw std::logic_error(problems[0].key + ": " + problems[0].text);
  return config;
}

/// A corpus with splits "train" and "valid" whose next token mostly follows from the last, so that
/// there is something to learn. Begin-of-text is 1, end-of-text 2.
inline std::filesystem::path tiny_corpus(const std::filesystem::path& path, uint64_t seed = 0) {
  CorpusInfo info;
  info.vocab_size = 67;
  info.bos_id = 1;
  info.eos_id = 2;
  CorpusWriter writer(path, info);
  for (uint64_t document = 0; document < 40; ++document) {
    std::vector<int32_t> ids = {1};
    const auto length = 20 + hash_of(seed, "length", document) % 150;
    for (uint64_t i = 0; i < length; ++i) {
      const bool follows = uniform(seed, "follows", document, i) < 0.9;
      const auto any = static_cast<int32_t>(3 + hash_of(seed, "token", document, i) % 64);
      ids.push_back(follows ? 3 + (ids.back() * 5 + 7) % 64 : any);
    }
    ids.push_back(2);
    writer.add_document(document % 10 == 9 ? "valid" : "train", ids, length);
  }
  writer.finish();
  return path;
}

/// A run of tiny_model() on the CPU: 12 steps of 4 sequences of 16 tokens, with a checkpoint every
/// 3 steps and a validation every 6.
inline RunConfig tiny_run(const std::filesystem::path& corpus) {
  RunConfig config;
  config.model = tiny_model();
  config.data.corpus = {corpus.string()};
  config.train.max_steps = 12;
  config.train.batch_size = 4;
  config.train.sequence_length = 16;
  config.train.learning_rate = 3e-3;
  config.train.warmup_steps = 2;
  config.train.checkpoint_every = 3;
  config.train.validate_every = 6;
  config.train.validate_tokens = 256;
  config.train.peak_flops = 1e12;
  config.train.tensorboard = false;
  config.train.device = "cpu";
  config.train.threads = 1;
  return config;
}

}  // namespace kvsmith
