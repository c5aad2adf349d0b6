#pragma once

#include <fstream>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "core/files.h"
#include "data/tokenizer.h"
#include "data/tokenizer_training.h"
#include "tests/support/temporary_directory.h"

namespace kvsmith {

/// Text of several kinds, the same on every machine: enough to train a small vocabulary on.
inline std::string sample_text() {
  const std::vector<std::string> lines = {
      "It was the best of times, it was the worst of times, it was the age of wisdom,",
      "    if (total > 10) { return total * 2; }   // twice the total",
      "\tthe year 1859 and the price of 3.50 pounds; haha hahaha hahahaha, she said.",
      "Он вошёл в комнату и сел. Она читала книгу, а он читал газету.",
      "日本語の文章です。日本の言葉を読む。",
      "Ça va très bien, merci; l'été est déjà là. Größe, Maß und Straße.",
      "aaa aaaa aaaaa banana bananas ananas --- ---- === ==== ......",
  };
  std::mt19937 random(1);
  std::string text;
  for (int i = 0; i < 400; ++i) {
    const std::string& line = lines[random() % lines.size()];
    text += line.substr(0, line.find(' ', random() % line.size())) + "\n" + line + "\n";
  }
  return text;
}

/// Replaces the file.
inline void write_text(const std::filesystem::path& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

/// The model file of a tokenizer trained on sample_text(), once a process.
inline const std::string& small_model() {
  static const std::string model = [] {
    const TemporaryDirectory folder;
    write_text(folder / "text.txt", sample_text());
    train_tokenizer({.inputs = {folder / "text.txt"}, .vocab_size = 600}, folder / "small.model");
    return read_file(folder / "small.model");
  }();
  return model;
}

/// The tokenizer of small_model(): 600 pieces.
inline Tokenizer small_tokenizer() { return Tokenizer::from_bytes(small_model(), "small.model"); }

/// Texts that tokenizers like to get wrong, and random ones made of such parts.
inline std::vector<std::string> nasty_texts(int random_ones) {
  const std::vector<std::string> parts = {
      " ",       "  ",     "   ",    "\n",     "\n\n",   "\t",     "\r\n",
      "a",       "the",    " the",   "haha",   "ha",     "aa",     "aaa",
      "1859",    "3.50",   "don't",  "--",     "...",    "=",      "é",
      "e\u0301", "ß",      "日",     "本語",   "Она",    "😀",     "👩‍👩‍👧",
      "\u2581",  "<s>",    "</s>",   "<unk>",  "<0x0A>", "\u2047", "\u00A0",
      "\u3000",  "\u200B", "\uFEFF", "\uFFFD", "\x01",   "\x7F",   "\U0010FFFF",
      "\uD7FF",  "\uE000", "banana", "wisdom", "total",  "x",      "Ж"};
  std::vector<std::string> texts(parts);
  texts.emplace_back("");
  texts.push_back(std::string(300, 'a') + std::string(300, ' ') + "b");
  texts.push_back(sample_text().substr(0, 5000));
  std::mt19937 random(7);
  for (int i = 0; i < random_ones; ++i) {
    // Few kinds of parts at a time: repetitions are what tells orders of merging apart.
    const size_t kinds = 1 + random() % 6, first = random();
    std::string text;
    for (size_t n = random() % 30; n > 0; --n)
      text += parts[(first + (random() % kinds) * 7) % parts.size()];
    texts.push_back(text);
  }
  return texts;
}

}  // namespace kvsmith
