#include <algorithm>
#include <cstddef>
#include <cstring>
#include <map>
#include <optional>
#include <utility>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/text.h"
#include "data/corpus.h"
#include "data/corpus_schema.h"
#include "data/hdf5.h"

namespace kvsmith {
namespace {

/// Buffers one chunk of a dataset and remembers the hashes of those written.
class ColumnWriter {
 public:
  ColumnWriter(Hdf5File& file, const std::string& path, const Hdf5Layout& layout)
      : path_(path),
        layout_(layout),
        chunk_bytes_(layout.chunk_rows * layout.row_bytes()),
        data_(file.create_dataset(path, layout)),
        stored_hashes_(file.create_dataset(path + kHashSuffix, kHashLayout)) {
    buffer_.reserve(chunk_bytes_);
  }

  void append(const void* rows, size_t bytes) {
    const auto* next = static_cast<const std::byte*>(rows);
    while (bytes > 0) {
      const size_t count = std::min(bytes, chunk_bytes_ - buffer_.size());
      buffer_.insert(buffer_.end(), next, next + count);
      next += count;
      bytes -= count;
      if (buffer_.size() == chunk_bytes_) flush();
    }
  }

  ColumnDigest finish() {
    if (!buffer_.empty()) flush();
    if (!hashes_.empty()) stored_hashes_.append(hashes_.data(), hashes_.size());
    ColumnDigest digest(path_, layout_.type, data_.rows(), hashes_);
    data_.close();
    stored_hashes_.close();
    return digest;
  }

 private:
  void flush() {
    hashes_.push_back(xxh3_128(buffer_.data(), buffer_.size()));
    data_.append(buffer_.data(), buffer_.size() / layout_.row_bytes());
    buffer_.clear();
  }

  std::string path_;
  Hdf5Layout layout_;
  size_t chunk_bytes_;
  Hdf5Dataset data_, stored_hashes_;
  std::vector<std::byte> buffer_;
  ChunkHashes hashes_;
};

class SplitWriter {
 public:
  SplitWriter(Hdf5File& file, const std::string& name, const Hdf5Layout& tokens, bool marks_learnt)
      : wide_(tokens.type == Hdf5Type::kUint32),
        tokens_(file, cat(name, '/', kTokens), tokens),
        offsets_(file, cat(name, '/', kDocumentOffsets), kIndexLayout),
        bytes_(file, cat(name, '/', kDocumentBytes), kIndexLayout) {
    offsets_.append(&end_, sizeof end_);
    if (marks_learnt) learnt_.emplace(file, cat(name, '/', kLearnt), kLearntLayout);
  }

  void append(std::span<const int32_t> ids, std::span<const uint8_t> learnt) {
    if (learnt_) learnt_->append(learnt.data(), learnt.size());
    if (wide_) {
      tokens_.append(ids.data(), ids.size_bytes());
    } else {
      narrow_.assign(ids.begin(), ids.end());
      tokens_.append(narrow_.data(), narrow_.size() * sizeof(uint16_t));
    }
    end_ += ids.size();
  }

  void end_document(uint64_t text_bytes) {
    offsets_.append(&end_, sizeof end_);
    bytes_.append(&text_bytes, sizeof text_bytes);
    begin_ = end_;
    ++documents_;
  }

  uint64_t tokens() const { return end_; }
  uint64_t documents() const { return documents_; }
  /// Tokens of the document that has not ended yet.
  uint64_t open_tokens() const { return end_ - begin_; }

  void finish(std::vector<ColumnDigest>& digests) {
    for (ColumnWriter* column : {&tokens_, &offsets_, &bytes_}) digests.push_back(column->finish());
    if (learnt_) digests.push_back(learnt_->finish());
  }

 private:
  bool wide_;
  uint64_t begin_ = 0, end_ = 0, documents_ = 0;  ///< begin_: of the current document
  ColumnWriter tokens_, offsets_, bytes_;
  std::optional<ColumnWriter> learnt_;
  std::vector<uint16_t> narrow_;
};

void check_info(const CorpusInfo& info, const std::string& where) {
  const auto refuse = [&](const std::string& what) {
    throw Error(ExitCode::kInternal, {.what = what, .where = where, .remedy = ""});
  };
  if (info.vocab_size < 1 || info.vocab_size > INT32_MAX) {
    refuse(cat("a vocabulary of ", info.vocab_size, " tokens"));
  }
  for (const int32_t id : {info.bos_id, info.eos_id}) {
    if (id < -1 || id >= info.vocab_size) refuse(cat("special token ", id));
  }
  if (info.holds_pairs && !info.marks_learnt) refuse("pairs without marks");
  const std::string expected = info.tokenizer_model.empty() ? "" : sha256(info.tokenizer_model);
  if (info.tokenizer_sha256 != expected) refuse("tokenizer model and SHA-256 do not agree");
}

/// HDF5 can close a file without error that it could not write: only reading it back tells.
void expect_written(const std::filesystem::path& path, const std::string& fingerprint) {
  std::string fault;
  try {
    const Corpus written = Corpus::open(path);
    written.verify();
    if (written.fingerprint() != fingerprint) fault = "another fingerprint";
  } catch (const Error& e) {
    fault = e.problem().what;
  }
  if (fault.empty()) return;
  throw Error(ExitCode::kIo, {.what = cat("the file read back is not what was written: ", fault),
                              .where = path.string(),
                              .remedy = "check free space and the disk"});
}

}  // namespace

struct CorpusWriter::Impl {
  std::filesystem::path path;
  CorpusInfo info;
  AtomicFile output;  // gives the temporary name, removes what was not published
  std::optional<Hdf5File> file;
  std::map<std::string, SplitWriter> splits;

  Impl(const std::filesystem::path& target, CorpusInfo about)
      : path(target),
        info(std::move(about)),
        output(target),
        file(Hdf5File::create(output.temporary())) {}

  SplitWriter& split(const std::string& name) {
    if (const auto found = splits.find(name); found != splits.end()) return found->second;
    if (!is_split_name(name)) {
      throw Error(ExitCode::kInternal, {.what = cat("\"", name, "\" cannot name a split"),
                                        .where = path.string(),
                                        .remedy = ""});
    }
    file->create_group(name);
    return splits.try_emplace(name, *file, name, token_layout(info.vocab_size), info.marks_learnt)
        .first->second;
  }

  void write_bytes(const char* name, const std::string& bytes, std::vector<ColumnDigest>& digests) {
    ColumnWriter column(*file, name, kBytesLayout);
    column.append(bytes.data(), bytes.size());
    digests.push_back(column.finish());
  }
};

CorpusWriter::CorpusWriter(const std::filesystem::path& path, const CorpusInfo& info) {
  check_info(info, path.string());
  impl_ = std::make_unique<Impl>(path, info);
}

CorpusWriter::~CorpusWriter() = default;

void CorpusWriter::append(const std::string& split, std::span<const int32_t> ids) {
  append(split, ids, {});
}

void CorpusWriter::append(const std::string& split,
                          std::span<const int32_t> ids,
                          std::span<const uint8_t> learnt) {
  if (learnt.size() != (impl_->info.marks_learnt ? ids.size() : 0) ||
      std::ranges::any_of(learnt, [](uint8_t mark) { return mark > 1; })) {
    throw Error(ExitCode::kInternal,
                {.what = cat(learnt.size(), " marks for ", ids.size(), " tokens, or not 0 or 1"),
                 .where = impl_->path.string(),
                 .remedy = ""});
  }
  SplitWriter& writer = impl_->split(split);
  const auto outside = [&](int32_t id) { return id < 0 || id >= impl_->info.vocab_size; };
  if (const auto bad = std::ranges::find_if(ids, outside); bad != ids.end()) {
    throw Error(ExitCode::kBadData,
                {.what = cat("token ", *bad, " at position ",
                             writer.open_tokens() + static_cast<uint64_t>(bad - ids.begin()),
                             " of document ", writer.documents(), " (split ", split,
                             ") is outside the vocabulary of ", impl_->info.vocab_size),
                 .where = impl_->path.string(),
                 .remedy = "give the vocabulary the tokens were made with"});
  }
  writer.append(ids, learnt);
}

void CorpusWriter::end_document(const std::string& split, uint64_t text_bytes) {
  impl_->split(split).end_document(text_bytes);
}

void CorpusWriter::add_document(const std::string& split,
                                std::span<const int32_t> ids,
                                uint64_t text_bytes) {
  append(split, ids);
  end_document(split, text_bytes);
}

void CorpusWriter::add_source(const CorpusSource& source) { impl_->info.sources.push_back(source); }

void CorpusWriter::finish() {
  Impl& work = *impl_;
  uint64_t tokens = 0;
  for (const auto& [name, split] : work.splits) {
    if (split.open_tokens() > 0) {
      throw Error(ExitCode::kInternal,
                  {.what = cat("document ", split.documents(), " (split ", name, ") was not ended"),
                   .where = work.path.string(),
                   .remedy = ""});
    }
    if (work.info.holds_pairs && split.documents() % 2 != 0) {
      throw Error(ExitCode::kInternal, {.what = cat("a pair of one document (split ", name, ")"),
                                        .where = work.path.string(),
                                        .remedy = ""});
    }
    tokens += split.tokens();
  }
  if (tokens == 0) {
    throw Error(ExitCode::kBadData, {.what = "the corpus would hold no tokens",
                                     .where = work.path.string(),
                                     .remedy = "check the inputs and filters"});
  }
  std::vector<ColumnDigest> digests;
  for (auto& [name, split] : work.splits) split.finish(digests);
  work.write_bytes(kSources, sources_to_json(work.info.sources), digests);
  if (!work.info.tokenizer_model.empty()) {
    work.write_bytes(kTokenizerModel, work.info.tokenizer_model, digests);
  }
  Hdf5Attributes attributes = attributes_of(work.info);
  const std::string fingerprint = corpus_fingerprint(attributes, std::move(digests));
  attributes["fingerprint"] = fingerprint;
  work.file->set_attributes(attributes);
  work.splits.clear();
  work.file->close();

  expect_written(work.output.temporary(), fingerprint);
  publish_file(work.output.temporary(), work.path);
}

}  // namespace kvsmith
