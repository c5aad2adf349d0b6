#include "tools/data_inspect.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "core/text.h"
#include "data/corpus.h"
#include "data/tokenizer.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct InspectFlags {
  fs::path corpus;
  std::string split = "train", color = "auto";
  uint64_t show = 0;
  bool verify = false, json = false;
};

/// What stands around text that is learnt.
struct Marks {
  std::string begin, end;
};

Marks marks_of(const std::string& color) {
  const char* refused = std::getenv("NO_COLOR");
  const bool wants_none = refused != nullptr && *refused != '\0';
  const bool colors =
      color == "always" || (color == "auto" && !wants_none && isatty(STDOUT_FILENO) == 1);
  return colors ? Marks{"\x1b[32m", "\x1b[0m"} : Marks{"«", "»"};
}

uint64_t count_learnt(const CorpusSplit& split) {
  constexpr uint64_t kSlice = 1 << 16;
  std::vector<uint8_t> learnt;
  uint64_t count = 0;
  for (uint64_t first = 0; first < split.tokens(); first += kSlice) {
    learnt.resize(std::min(kSlice, split.tokens() - first));
    split.read_learnt(first, learnt);
    count += static_cast<uint64_t>(std::ranges::count(learnt, 1));
  }
  return count;
}

Json describe(const Corpus& corpus, const fs::path& path) {
  const auto& info = corpus.info();
  Json json = {{"corpus", path.string()},
               {"fingerprint", corpus.fingerprint()},
               {"vocab_size", info.vocab_size},
               {"tokenizer", {{"name", info.tokenizer_name}, {"sha256", info.tokenizer_sha256}}},
               {"splits", Json::object()},
               {"sources", Json::array()}};
  for (const auto& name : corpus.splits()) {
    const auto split = corpus.split(name);
    uint64_t bytes = 0;
    for (uint64_t d = 0; d < split->documents(); ++d) bytes += split->text_bytes(d);
    json["splits"][name] = {
        {"documents", split->documents()},
        {"tokens", split->tokens()},
        {"text_bytes", bytes},
        {"bytes_per_token", static_cast<double>(bytes) / static_cast<double>(split->tokens())}};
    if (split->marks_learnt()) json["splits"][name]["learnt_tokens"] = count_learnt(*split);
    if (info.holds_pairs) json["splits"][name]["pairs"] = split->documents() / 2;
  }
  for (const auto& source : info.sources) {
    json["sources"].push_back(
        {{"name", source.name}, {"bytes", source.bytes}, {"sha256", source.sha256}});
  }
  return json;
}

/// The first tokens of a document, separated by bars; `tokenizer` may be null.
void show_tokens(const CorpusSplit& split, uint64_t document, const Tokenizer* tokenizer) {
  constexpr uint64_t kTokens = 64;
  const uint64_t begin = split.offset(document), count = split.offset(document + 1) - begin;
  std::vector<int32_t> ids(std::min(count, kTokens));
  split.read(begin, ids);
  std::cout << "document " << document << ", " << count << " tokens: ";
  for (const int32_t id : ids) {
    if (tokenizer) {
      std::cout << printable(tokenizer->piece(id)) << "|";
    } else {
      std::cout << id << " ";
    }
  }
  std::cout << (count > kTokens ? " ...\n" : "\n");
}

/// `text` between marks, line by line, so that a pager that shows some lines shows their marks.
void print_marked(const std::string& text, const Marks& marks) {
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    if (end > begin) std::cout << marks.begin << text.substr(begin, end - begin) << marks.end;
    if (end < text.size()) std::cout << "\n";
    begin = end + 1;
  }
}

/// A document as text, control tokens by their names, and what of it is learnt between marks.
void show_chat(const CorpusSplit& split,
               uint64_t document,
               const Tokenizer& tokenizer,
               const Marks& marks) {
  constexpr uint64_t kTokens = 2048;
  const uint64_t begin = split.offset(document), count = split.offset(document + 1) - begin;
  std::vector<int32_t> ids(std::min(count, kTokens));
  std::vector<uint8_t> learnt(count);
  split.read(begin, ids);
  split.read_learnt(begin, learnt);
  std::cout << "\ndocument " << document << ", " << count << " tokens, "
            << std::ranges::count(learnt, 1) << " learnt:\n";
  for (size_t i = 0; i < ids.size();) {
    const uint8_t mark = learnt[i];
    std::string run;
    for (; i < ids.size() && learnt[i] == mark; ++i) {
      const int32_t id = ids[i];
      run += tokenizer.is_special(id) ? tokenizer.piece(id) : tokenizer.surface(id);
    }
    std::string shown;
    constexpr size_t kSlice = 2000;  // that printable() takes
    for (size_t at = 0; at < run.size(); at += kSlice) shown += printable(run.substr(at, kSlice));
    if (mark != 0) {
      print_marked(shown, marks);
    } else {
      std::cout << shown;
    }
  }
  std::cout << (count > kTokens ? " ...\n" : "\n");
}

void show(const Corpus& corpus, const InspectFlags& flags) {
  const auto split = corpus.split(flags.split);
  const auto& model = corpus.info().tokenizer_model;
  std::optional<Tokenizer> tokenizer;
  if (!model.empty()) tokenizer = Tokenizer::from_bytes(model, "the corpus");
  const Marks marks = marks_of(flags.color);
  for (uint64_t d = 0; d < std::min(flags.show, split->documents()); ++d) {
    if (split->marks_learnt() && tokenizer) {
      show_chat(*split, d, *tokenizer, marks);
    } else {
      show_tokens(*split, d, tokenizer ? &*tokenizer : nullptr);
    }
  }
}

void inspect(const InspectFlags& flags) {
  const Corpus corpus = Corpus::open(flags.corpus);
  if (flags.verify) corpus.verify();
  const Json json = describe(corpus, flags.corpus);
  if (flags.json) {
    std::cout << json.dump(2) << "\n";
    return;
  }
  std::cout << "vocabulary  " << corpus.info().vocab_size << ", tokenizer "
            << corpus.info().tokenizer_name << "\n";
  for (const auto& [name, split] : json["splits"].items()) {
    std::cout << "split       " << name << ": " << split["documents"] << " documents, "
              << split["tokens"] << " tokens, " << human_bytes(split["text_bytes"].get<double>())
              << " of text, " << std::round(100 * split["bytes_per_token"].get<double>()) / 100
              << " bytes a token\n";
    if (split.contains("pairs"))
      std::cout << "            in " << split["pairs"] << " pairs: chosen, rejected\n";
    if (!split.contains("learnt_tokens")) continue;
    const double share =
        split["learnt_tokens"].get<double>() / std::max(1.0, split["tokens"].get<double>());
    std::cout << "            " << split["learnt_tokens"] << " tokens are learnt ("
              << std::round(1000 * share) / 10 << " %)\n";
  }
  for (const auto& source : corpus.info().sources) {
    std::cout << "source      " << printable(source.name) << ", " << source.bytes << " bytes\n";
  }
  std::cout << "fingerprint " << corpus.fingerprint()
            << (flags.verify ? ", every chunk verified\n" : "\n");
  if (flags.show > 0) show(corpus, flags);
}

}  // namespace

void add_data_inspect(CLI::App& data) {
  auto* verb = data.add_subcommand("inspect", "What a corpus file holds");
  auto flags = std::make_shared<InspectFlags>();
  verb->add_option("corpus", flags->corpus, "corpus file")->required();
  verb->add_option("--show", flags->show,
                   "print the first tokens of this many documents; of chats the text, what is "
                   "learnt in colour or between « and »");
  verb->add_option("--split", flags->split, "split to show")->capture_default_str();
  verb->add_option("--color", flags->color, "auto (on a terminal), always or never")
      ->check(CLI::IsMember({"auto", "always", "never"}))
      ->capture_default_str();
  verb->add_flag("--verify", flags->verify, "read everything and check every checksum");
  verb->add_flag("--json", flags->json, "print JSON");
  verb->footer("Example:\n  kvsmith data inspect corpus.h5 --show 3 --verify");
  verb->callback([flags] { inspect(*flags); });
}

}  // namespace kvsmith
