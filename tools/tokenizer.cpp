#include "data/tokenizer.h"

#include <filesystem>
#include <iostream>
#include <memory>

#include <CLI/CLI.hpp>

#include "core/error.h"
#include "core/files.h"
#include "core/text.h"
#include "data/input_stream.h"
#include "data/tokenizer_training.h"
#include "tools/console.h"
#include "tools/verbs.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

struct TrainFlags {
  TokenizerTraining training;
  fs::path output;
  bool force = false, quiet = false;
};

struct EncodeFlags {
  fs::path tokenizer, input = "-";
  bool specials = false, ends_with_nul = false;
};

void train_it(const TrainFlags& flags) {
  expect_writable(flags.output, flags.force);
  Console console(flags.quiet);
  train_tokenizer(flags.training, flags.output);
  console.note(cat("wrote ", flags.output.string(), ": ",
                   Tokenizer::load(flags.output).vocab_size(), " pieces"));
}

void encode(const EncodeFlags& flags) {
  const Tokenizer tokenizer = Tokenizer::load(flags.tokenizer);
  InputStream input(flags.input);
  const char end = flags.ends_with_nul ? '\0' : '\n';
  uint64_t number = 0;
  std::string out;
  const auto print = [&](std::string_view text) {
    ++number;
    try {
      const auto ids =
          flags.specials ? tokenizer.encode_with_specials(text) : tokenizer.encode(text);
      for (size_t i = 0; i < ids.size(); ++i) {
        if (i > 0) out += ' ';
        out += std::to_string(ids[i]);
      }
    } catch (const Error& error) {
      throw Error(error.code(), {error.problem().what, cat(flags.input.string(), ":", number),
                                 error.problem().remedy});
    }
    out += '\n';
  };
  std::string text;
  std::string buffer(size_t{1} << 18, '\0');
  while (const size_t got = input.read(buffer.data(), buffer.size())) {
    size_t at = text.size();
    text.append(buffer, 0, got);
    size_t begin = 0;
    for (; (at = text.find(end, at)) != text.npos; begin = ++at)
      print(std::string_view(text).substr(begin, at - begin));
    text.erase(0, begin);
    std::cout << out;
    out.clear();
  }
  if (!text.empty()) print(text);
  std::cout << out << std::flush;
}

void add_encode(CLI::App& tokenizer) {
  auto* verb = tokenizer.add_subcommand("encode", "Token ids of texts, one line for each");
  auto flags = std::make_shared<EncodeFlags>();
  verb->add_option("tokenizer", flags->tokenizer, "SentencePiece model or tokenizer.json")
      ->required();
  verb->add_option("input", flags->input, "texts, one a line (also .gz, .zst); - for stdin")
      ->capture_default_str();
  verb->add_flag("--specials", flags->specials, "names of control tokens become their ids");
  verb->add_flag("--null,-0", flags->ends_with_nul, "texts end with a NUL instead of a newline");
  verb->footer("Example:\n  echo 'To be, or not to be' | kvsmith tokenizer encode tokenizer.json");
  verb->callback([flags] { encode(*flags); });
}

void add_train_tokenizer(CLI::App& tokenizer) {
  auto* verb = tokenizer.add_subcommand("train", "Train a SentencePiece BPE tokenizer");
  auto flags = std::make_shared<TrainFlags>();
  verb->add_option("inputs", flags->training.inputs,
                   "texts, as for `data build`; only those to train on")
      ->required();
  verb->add_option("--vocab-size", flags->training.vocab_size,
                   "pieces, bytes and control tokens included")
      ->capture_default_str();
  verb->add_option("--json-field", flags->training.json_field, "field with the text in .jsonl")
      ->capture_default_str();
  verb->add_option("--max-bytes", flags->training.max_bytes,
                   "texts are sampled down to this; bounds memory")
      ->capture_default_str();
  verb->add_option("--seed", flags->training.seed, "of the sampling");
  verb->add_option("--threads", flags->training.threads, "0: all cores");
  verb->add_option("--output,-o", flags->output, "model file (.model)")->required();
  verb->add_flag("--force", flags->force, "replace the output");
  verb->add_flag("--quiet,-q", flags->quiet, "no progress on stderr");
  verb->footer(
      "Example:\n  kvsmith tokenizer train books/ --vocab-size 8192 --output tokenizer.model");
  verb->callback([flags] { train_it(*flags); });
}

}  // namespace

void add_tokenizer(CLI::App& app) {
  auto* tokenizer = app.add_subcommand("tokenizer", "Tokenizers");
  tokenizer->require_subcommand(1);
  add_train_tokenizer(*tokenizer);
  add_encode(*tokenizer);
}

}  // namespace kvsmith
