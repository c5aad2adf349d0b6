#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"
#include "core/hash.h"
#include "core/text.h"
#include "data/corpus.h"
#include "tests/support/temporary_directory.h"

namespace kvsmith {

/// What a corpus is made from.
struct SampleSplit {
  std::string name;
  std::vector<std::vector<int32_t>> documents;
};

inline CorpusInfo sample_info(int64_t vocab_size) {
  CorpusInfo info{.vocab_size = vocab_size,
                  .bos_id = 1,
                  .eos_id = 2,
                  .tokenizer_name = "sample.model",
                  .tokenizer_sha256 = {},
                  .tokenizer_model = std::string("model \0 bytes", 13),
                  .sources = {{.name = "a.txt", .bytes = 7, .sha256 = std::string(64, 'a')}}};
  info.tokenizer_sha256 = sha256(info.tokenizer_model);
  return info;
}

/// Documents of `lengths` tokens: begin-of-text 1, then any tokens from 2 on, by a simple rule.
inline std::vector<std::vector<int32_t>> sample_documents(std::span<const size_t> lengths,
                                                          int64_t vocab_size) {
  std::vector<std::vector<int32_t>> documents;
  uint64_t state = 12345;
  for (const size_t length : lengths) {
    std::vector<int32_t>& document = documents.emplace_back(length, 1);
    for (size_t i = 1; i < length; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      document[i] = static_cast<int32_t>(2 + (state >> 33) % static_cast<uint64_t>(vocab_size - 2));
    }
  }
  return documents;
}

inline void write_sample(const std::filesystem::path& path,
                         const CorpusInfo& info,
                         const std::vector<SampleSplit>& splits) {
  CorpusWriter writer(path, info);
  for (const SampleSplit& split : splits) {
    for (const auto& document : split.documents) {
      writer.add_document(split.name, document, 3 * document.size());
    }
  }
  writer.finish();
}

/// A document, and for each token 1 where it is learnt.
struct MarkedDocument {
  std::vector<int32_t> ids;
  std::vector<uint8_t> learnt;
};

/// A corpus of 100 token ids with marks, of one split.
inline Corpus marked_corpus(const std::filesystem::path& path,
                            const std::vector<MarkedDocument>& documents) {
  CorpusInfo info = sample_info(100);
  info.marks_learnt = true;
  CorpusWriter writer(path, info);
  for (const auto& document : documents) {
    writer.append("train", document.ids, document.learnt);
    writer.end_document("train", document.ids.size());
  }
  writer.finish();
  return Corpus::open(path);
}

inline constexpr size_t kSmall[] = {40, 1, 300, 17, 5000};

/// A corpus of one split in a file of some 300 KB.
inline void write_small(const std::filesystem::path& path) {
  write_sample(path, sample_info(500), {{"train", sample_documents(kSmall, 500)}});
}

/// Everything a reader can learn from a corpus.
struct CorpusContent {
  CorpusInfo info;
  std::string fingerprint;
  std::vector<std::string> splits;
  std::vector<std::vector<int32_t>> tokens;
  std::vector<std::vector<uint64_t>> offsets, text_bytes;
};

inline CorpusContent content_of(const std::filesystem::path& path) {
  const Corpus corpus = Corpus::open(path);
  CorpusContent content{corpus.info(), corpus.fingerprint(), corpus.splits(), {}, {}, {}};
  for (const std::string& name : content.splits) {
    const auto split = corpus.split(name);
    split->read(0, content.tokens.emplace_back(split->tokens()));
    auto& offsets = content.offsets.emplace_back();
    auto& text_bytes = content.text_bytes.emplace_back();
    for (uint64_t i = 0; i <= split->documents(); ++i) offsets.push_back(split->offset(i));
    for (uint64_t i = 0; i < split->documents(); ++i) text_bytes.push_back(split->text_bytes(i));
  }
  return content;
}

inline bool same(const CorpusContent& a, const CorpusContent& b) {
  return a.info.vocab_size == b.info.vocab_size && a.info.bos_id == b.info.bos_id &&
         a.info.eos_id == b.info.eos_id && a.info.tokenizer_name == b.info.tokenizer_name &&
         a.info.tokenizer_sha256 == b.info.tokenizer_sha256 &&
         a.info.tokenizer_model == b.info.tokenizer_model &&
         a.info.sources.size() == b.info.sources.size() && a.fingerprint == b.fingerprint &&
         a.splits == b.splits && a.tokens == b.tokens && a.offsets == b.offsets &&
         a.text_bytes == b.text_bytes;
}

/// Runs `trials` in a child process, so that a crash is a test failure and not the end of the test.
/// They report what is wrong, if anything.
inline void expect_in_child(const std::function<std::string()>& trials) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    std::string report;
    try {
      report = trials();
    } catch (const std::exception& e) {
      report = cat("unexpected exception: ", e.what());
    }
    const bool told = ::write(ends[1], report.data(), report.size()) >= 0;
    ::_exit(told ? 0 : 1);
  }
  ::close(ends[1]);
  std::string report(4096, '\0');
  report.resize(static_cast<size_t>(std::max<ssize_t>(0, ::read(ends[0], report.data(), 4096))));
  ::close(ends[0]);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << "died with signal " << WTERMSIG(status);
  EXPECT_EQ(report, "");
}

/// "<code>: <message>" of the Error that `action` throws, or "nothing thrown".
template <class Action>
std::string error_of(Action action) {
  try {
    action();
  } catch (const Error& e) {
    return std::to_string(static_cast<int>(e.code())) + ": " + e.what();
  }
  return "nothing thrown";
}

}  // namespace kvsmith
