#include "data/corpus_schema.h"

#include <algorithm>
#include <bit>
#include <set>
#include <string_view>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/hash.h"
#include "core/text.h"

namespace kvsmith {

static_assert(std::endian::native == std::endian::little, "stored bytes are hashed as they are");

Hdf5Layout token_layout(int64_t vocab_size) {
  return {.type = vocab_size <= 65'536 ? Hdf5Type::kUint16 : Hdf5Type::kUint32,
          .chunk_rows = 65'536};
}

bool is_split_name(const std::string& name) {
  const auto letter = [](char c) { return c >= 'a' && c <= 'z'; };
  const auto allowed = [&](char c) { return letter(c) || (c >= '0' && c <= '9') || c == '_'; };
  const std::set<std::string> taken = {kTokenizerModel, cat(kTokenizerModel, kHashSuffix), kSources,
                                       cat(kSources, kHashSuffix)};
  return !name.empty() && name.size() <= 32 && letter(name[0]) &&
         std::ranges::all_of(name, allowed) && !taken.contains(name);
}

ColumnDigest::ColumnDigest(std::string path_,
                           Hdf5Type type_,
                           uint64_t rows_,
                           const ChunkHashes& hashes)
    : path(std::move(path_)),
      type(type_),
      rows(rows_),
      hashes_sha256(sha256({reinterpret_cast<const char*>(hashes.data()),
                            hashes.size() * sizeof(ChunkHashes::value_type)})) {}

std::string corpus_fingerprint(const Hdf5Attributes& attributes,
                               std::vector<ColumnDigest> columns) {
  std::string text;
  for (const auto& [name, value] : attributes) {
    if (name == "fingerprint") continue;
    if (const auto* number = std::get_if<int64_t>(&value)) {
      text += cat("integer ", name, ' ', *number, '\n');
    } else {
      const auto& words = std::get<std::string>(value);
      text += cat("text ", name, ' ', words.size(), ' ', words, '\n');
    }
  }
  std::ranges::sort(columns, {}, &ColumnDigest::path);
  for (const ColumnDigest& column : columns) {
    text += cat("dataset ", column.path, ' ', name_of(column.type), ' ', column.rows, ' ',
                column.hashes_sha256, '\n');
  }
  return sha256(text);
}

Hdf5Attributes attributes_of(const CorpusInfo& info) {
  return {{"schema", kCorpusSchema},
          {"version", info.holds_pairs    ? kPairedVersion
                      : info.marks_learnt ? kMarkedVersion
                                          : kCorpusVersion},
          {"vocab_size", info.vocab_size},
          {"bos_id", int64_t{info.bos_id}},
          {"eos_id", int64_t{info.eos_id}},
          {"tokenizer_name", info.tokenizer_name},
          {"tokenizer_sha256", info.tokenizer_sha256},
          {"tool_version", KVSMITH_VERSION}};
}

std::string sources_to_json(const std::vector<CorpusSource>& sources) {
  using Json = nlohmann::ordered_json;
  Json list = Json::array();
  for (const CorpusSource& source : sources) {
    list.push_back({{"name", source.name}, {"bytes", source.bytes}, {"sha256", source.sha256}});
  }
  return list.dump(1, ' ', false, Json::error_handler_t::replace);
}

std::vector<CorpusSource> sources_from_json(const std::string& text, const std::string& where) {
  using Json = nlohmann::json;
  try {
    const Json list = Json::parse(text, [](int depth, Json::parse_event_t, const Json&) {
      if (depth > 2) throw Json::other_error::create(500, "nested too deeply", nullptr);
      return true;
    });
    std::vector<CorpusSource> sources;
    for (const Json& entry : list) {
      sources.push_back({.name = entry.at("name").get<std::string>(),
                         .bytes = entry.at("bytes").get<uint64_t>(),
                         .sha256 = entry.at("sha256").get<std::string>()});
    }
    return sources;
  } catch (const Json::exception& e) {
    throw Error(ExitCode::kBadData, {.what = cat("not a list of sources: ", e.what()),
                                     .where = where,
                                     .remedy = "build the corpus anew"});
  }
}

}  // namespace kvsmith
