#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/hash.h"
#include "core/text.h"
#include "data/corpus.h"
#include "data/corpus_column.h"
#include "data/corpus_schema.h"

namespace kvsmith {
namespace {

constexpr uint64_t kTokenCacheBytes = uint64_t{64} << 20;
constexpr uint64_t kIndexCacheBytes = uint64_t{4} << 20;

[[noreturn]] void refuse(const std::string& what,
                         const std::string& where,
                         const std::string& remedy = "restore the file or build it anew") {
  throw Error(ExitCode::kBadData, {.what = what, .where = where, .remedy = remedy});
}

void expect_members(const Hdf5File& file,
                    const std::string& group,
                    const std::set<std::string>& expected) {
  const std::vector<std::string> names = file.members(group);
  for (const std::string& name : names) {
    if (!expected.contains(name)) refuse(cat("unknown member \"", name, '"'), file.where(group));
  }
  for (const std::string& name : expected) {
    if (std::ranges::find(names, name) == names.end()) {
      refuse(cat("no member \"", name, '"'), file.where(group));
    }
  }
}

/// A check of token chunks: every id below `vocab_size`.
template <class T>
CorpusColumn::Check vocabulary_check(std::string where, int64_t vocab_size) {
  return [where = std::move(where), vocab_size](uint64_t first, std::span<const std::byte> bytes) {
    const auto ids = rows_as<T>(bytes);
    if (ids.empty() || *std::ranges::max_element(ids) < vocab_size) return;
    const auto bad = std::ranges::find_if(ids, [&](T id) { return id >= vocab_size; });
    refuse(cat("token ", *bad, " at position ", first + (bad - ids.begin()),
               " is outside the vocabulary of ", vocab_size),
           where);
  };
}

/// A check of marks: every one 0 or 1.
CorpusColumn::Check mark_check(std::string where) {
  return [where = std::move(where)](uint64_t first, std::span<const std::byte> bytes) {
    const auto marks = rows_as<uint8_t>(bytes);
    const auto bad = std::ranges::find_if(marks, [](uint8_t mark) { return mark > 1; });
    if (bad == marks.end()) return;
    refuse(cat("mark ", int{*bad}, " at position ", first + (bad - marks.begin()),
               " is neither 0 nor 1"),
           where);
  };
}

/// Rows [first, first + out.size()) of a column of `Stored`.
template <class Stored, class T>
void copy_rows(const CorpusColumn& column, uint64_t first, std::span<T> out) {
  if (first > column.rows() || out.size() > column.rows() - first) {
    throw Error(ExitCode::kInternal, {.what = cat("asked for tokens ", first, " to ",
                                                  first + out.size(), " of ", column.rows()),
                                      .where = column.where(),
                                      .remedy = ""});
  }
  while (!out.empty()) {
    const uint64_t skip = first % column.chunk_rows();
    const uint64_t count = std::min<uint64_t>(out.size(), column.chunk_rows() - skip);
    const CorpusColumn::Chunk chunk = column.chunk(first / column.chunk_rows());
    std::ranges::copy(rows_as<Stored>(*chunk).subspan(skip, count), out.begin());
    out = out.subspan(count);
    first += count;
  }
}

class StoredSplit : public CorpusSplit {
 public:
  StoredSplit(const Hdf5File& file, const std::string& name, int64_t vocab_size, bool marks_learnt)
      : wide_(token_layout(vocab_size).type == Hdf5Type::kUint32),
        tokens_(file,
                cat(name, '/', kTokens),
                token_layout(vocab_size),
                kTokenCacheBytes,
                wide_
                    ? vocabulary_check<uint32_t>(file.where(cat(name, '/', kTokens)), vocab_size)
                    : vocabulary_check<uint16_t>(file.where(cat(name, '/', kTokens)), vocab_size)),
        offsets_(file, cat(name, '/', kDocumentOffsets), kIndexLayout, kIndexCacheBytes),
        bytes_(file, cat(name, '/', kDocumentBytes), kIndexLayout, kIndexCacheBytes) {
    if (offsets_.rows() != bytes_.rows() + 1) {
      refuse(cat("has ", offsets_.rows(), " rows for ", bytes_.rows(), " documents"),
             offsets_.where());
    }
    if (!marks_learnt) return;
    const std::string path = cat(name, '/', kLearnt);
    learnt_.emplace(file, path, kLearntLayout, kTokenCacheBytes, mark_check(file.where(path)));
    if (learnt_->rows() != tokens_.rows()) {
      refuse(cat("has ", learnt_->rows(), " marks for ", tokens_.rows(), " tokens"),
             learnt_->where());
    }
  }

  uint64_t tokens() const override { return tokens_.rows(); }
  uint64_t documents() const override { return bytes_.rows(); }

  void read(uint64_t first, std::span<int32_t> out) const override {
    if (wide_) {
      copy_rows<uint32_t>(tokens_, first, out);
    } else {
      copy_rows<uint16_t>(tokens_, first, out);
    }
  }

  bool marks_learnt() const override { return learnt_.has_value(); }

  void read_learnt(uint64_t first, std::span<uint8_t> out) const override {
    if (!learnt_) return CorpusSplit::read_learnt(first, out);
    copy_rows<uint8_t>(*learnt_, first, out);
  }

  uint64_t offset(uint64_t document) const override {
    check_index();
    return offsets_.at(document);
  }

  uint64_t text_bytes(uint64_t document) const override {
    check_index();
    return bytes_.at(document);
  }

  void verify() const {
    check_index();
    for (uint64_t i = 0; i < tokens_.chunks(); ++i) tokens_.load(i);
    for (uint64_t i = 0; i < bytes_.chunks(); ++i) bytes_.load(i);
    for (uint64_t i = 0; learnt_ && i < learnt_->chunks(); ++i) learnt_->load(i);
  }

  std::vector<ColumnDigest> digests() const {
    std::vector<ColumnDigest> all = {tokens_.digest(), offsets_.digest(), bytes_.digest()};
    if (learnt_) all.push_back(learnt_->digest());
    return all;
  }

 private:
  /// Document borders begin at 0, never go back, and end with the tokens. Checked once.
  void check_index() const {
    std::call_once(index_checked_, [this] {
      uint64_t document = 0, last = 0;
      for (uint64_t i = 0; i < offsets_.chunks(); ++i) {
        const CorpusColumn::Chunk chunk = offsets_.load(i);
        for (const uint64_t offset : rows_as<uint64_t>(*chunk)) {
          if (offset < last || (document == 0 && offset != 0) || offset > tokens()) {
            refuse(cat("document ", document, " begins at token ", offset, ", the one before at ",
                       last, ", of ", tokens(), " tokens"),
                   offsets_.where());
          }
          last = offset;
          ++document;
        }
      }
      if (last != tokens()) {
        refuse(cat("documents end at token ", last, " of ", tokens()), offsets_.where());
      }
    });
  }

  bool wide_;
  CorpusColumn tokens_, offsets_, bytes_;
  std::optional<CorpusColumn> learnt_;
  mutable std::once_flag index_checked_;
};

std::string read_bytes(const CorpusColumn& column) {
  std::string bytes;
  for (uint64_t i = 0; i < column.chunks(); ++i) {
    const CorpusColumn::Chunk chunk = column.load(i);
    bytes.append(reinterpret_cast<const char*>(chunk->data()), chunk->size());
  }
  return bytes;
}

/// The attributes as CorpusInfo, each present, of its type, and nothing besides.
CorpusInfo info_of(const Hdf5Attributes& attributes, const std::string& where) {
  Hdf5Attributes expected = attributes_of({});
  expected["fingerprint"] = "";
  for (const auto& [name, value] : attributes) {
    if (!expected.contains(name)) refuse(cat("unknown attribute \"", name, '"'), where);
  }
  for (const auto& [name, value] : expected) {
    const auto found = attributes.find(name);
    if (found == attributes.end()) refuse(cat("no attribute \"", name, '"'), where);
    if (found->second.index() != value.index()) {
      refuse(cat("attribute \"", name, "\" is not ", value.index() == 0 ? "an integer" : "a text"),
             where);
    }
  }
  const auto integer = [&](const char* name) { return std::get<int64_t>(attributes.at(name)); };
  const auto text = [&](const char* name) { return std::get<std::string>(attributes.at(name)); };
  const bool is_known =
      integer("version") >= kCorpusVersion && integer("version") <= kPairedVersion;
  if (text("schema") != kCorpusSchema || !is_known) {
    refuse(cat("schema \"", text("schema"), "\" version ", integer("version"), ", expected \"",
               kCorpusSchema, "\" version ", kCorpusVersion, " to ", kPairedVersion),
           where, "use the version of kvsmith that wrote the file, or build it anew");
  }
  const auto in_vocabulary = [&](int64_t id) { return id >= -1 && id < integer("vocab_size"); };
  if (integer("vocab_size") < 1 || integer("vocab_size") > INT32_MAX ||
      !in_vocabulary(integer("bos_id")) || !in_vocabulary(integer("eos_id"))) {
    refuse(cat("vocab_size ", integer("vocab_size"), ", bos_id ", integer("bos_id"), ", eos_id ",
               integer("eos_id"), " do not go together"),
           where);
  }
  return {.vocab_size = integer("vocab_size"),
          .bos_id = static_cast<int32_t>(integer("bos_id")),
          .eos_id = static_cast<int32_t>(integer("eos_id")),
          .tokenizer_name = text("tokenizer_name"),
          .tokenizer_sha256 = text("tokenizer_sha256"),
          .tokenizer_model = {},
          .sources = {},
          .marks_learnt = integer("version") >= kMarkedVersion,
          .holds_pairs = integer("version") == kPairedVersion};
}

}  // namespace

struct Corpus::Impl {
  std::string path;
  CorpusInfo info;
  std::string fingerprint;
  std::map<std::string, std::shared_ptr<const StoredSplit>> splits;
};

Corpus Corpus::open(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) {
    throw Error(ExitCode::kMissingInput,
                {"no such corpus", path.string(), "build it with `kvsmith data build`"});
  }
  const Hdf5File file = Hdf5File::open(path);
  auto impl = std::make_shared<Impl>();
  impl->path = path.string();
  const Hdf5Attributes attributes = file.attributes();
  impl->info = info_of(attributes, file.where(""));

  const bool has_tokenizer = !impl->info.tokenizer_sha256.empty();
  std::set<std::string> members = {kSources, cat(kSources, kHashSuffix)};
  if (has_tokenizer) members.insert({kTokenizerModel, cat(kTokenizerModel, kHashSuffix)});
  std::vector<std::string> splits;
  for (const std::string& name : file.members("")) {
    if (is_split_name(name)) splits.push_back(name);
  }
  members.insert(splits.begin(), splits.end());
  expect_members(file, "", members);

  std::vector<ColumnDigest> digests;
  for (const std::string& name : splits) {
    std::set<std::string> columns;
    for (const char* column : {kTokens, kDocumentOffsets, kDocumentBytes}) {
      columns.insert({column, cat(column, kHashSuffix)});
    }
    if (impl->info.marks_learnt) columns.insert({kLearnt, cat(kLearnt, kHashSuffix)});
    expect_members(file, name, columns);
    auto split = std::make_shared<const StoredSplit>(file, name, impl->info.vocab_size,
                                                     impl->info.marks_learnt);
    if (impl->info.holds_pairs && split->documents() % 2 != 0) {
      refuse(cat("holds pairs, and ", split->documents(), " documents"), file.where(name));
    }
    for (ColumnDigest& digest : split->digests()) digests.push_back(std::move(digest));
    impl->splits[name] = std::move(split);
  }

  const CorpusColumn sources(file, kSources, kBytesLayout, 0);
  digests.push_back(sources.digest());
  impl->info.sources = sources_from_json(read_bytes(sources), sources.where());
  if (has_tokenizer) {
    const CorpusColumn model(file, kTokenizerModel, kBytesLayout, 0);
    digests.push_back(model.digest());
    impl->info.tokenizer_model = read_bytes(model);
    if (const std::string found = sha256(impl->info.tokenizer_model);
        found != impl->info.tokenizer_sha256) {
      refuse(cat("SHA-256 is ", found, ", expected ", impl->info.tokenizer_sha256), model.where());
    }
  }

  impl->fingerprint = corpus_fingerprint(attributes, std::move(digests));
  if (const auto& stored = std::get<std::string>(attributes.at("fingerprint"));
      stored != impl->fingerprint) {
    refuse(cat("attributes or chunk hashes were changed: fingerprint ", impl->fingerprint,
               ", stored ", stored),
           file.where(""));
  }
  return Corpus(std::move(impl));
}

const CorpusInfo& Corpus::info() const { return impl_->info; }

const std::string& Corpus::fingerprint() const { return impl_->fingerprint; }

std::vector<std::string> Corpus::splits() const {
  std::vector<std::string> names;
  for (const auto& [name, split] : impl_->splits) names.push_back(name);
  return names;
}

std::shared_ptr<const CorpusSplit> Corpus::split(const std::string& name) const {
  const auto found = impl_->splits.find(name);
  if (found == impl_->splits.end()) {
    refuse(cat("no split \"", name, '"'), impl_->path, cat("choose one of: ", join(splits())));
  }
  return found->second;
}

void Corpus::verify() const {
  for (const auto& [name, split] : impl_->splits) split->verify();
}

}  // namespace kvsmith
