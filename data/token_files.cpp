#include "data/token_files.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <span>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/text.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "token files are read as they are");

constexpr uint64_t kMaxDocumentTokens = uint64_t{1} << 20;
constexpr uint64_t kBlockTokens = uint64_t{1} << 16;
constexpr std::string_view kMegatronMagic("MMIDIDX\0\0", 9);

[[noreturn]] void refuse(const fs::path& path, const std::string& what, const std::string& remedy) {
  throw Error(ExitCode::kBadData, {.what = what, .where = path.string(), .remedy = remedy});
}

/// A run of token ids in a file.
struct Layout {
  std::string format;
  uint64_t first_byte = 0;
  uint64_t tokens = 0;
  int width = 2;                    ///< bytes a token
  std::vector<uint64_t> documents;  ///< where they end, in tokens; empty: not known
};

template <class T>
T read_value(const InputFile& file, uint64_t offset) {
  T value;
  file.read(offset, &value, sizeof value);
  return value;
}

template <class T>
std::vector<T> read_values(const InputFile& file, uint64_t offset, uint64_t count) {
  std::vector<T> values(count);
  file.read(offset, values.data(), count * sizeof(T));
  return values;
}

std::optional<Layout> llm_c_layout(const InputFile& file) {
  constexpr uint64_t kHeaderBytes = 1024;
  if (file.size() < sizeof(int32_t)) return std::nullopt;
  const auto magic = read_value<int32_t>(file, 0);
  const bool is_gpt2 = magic == 20240520, is_llama3 = magic == 20240801;
  if (!is_gpt2 && !is_llama3) return std::nullopt;
  if (file.size() < kHeaderBytes)
    refuse(file.path(), cat("an llm.c header of ", file.size(), " bytes, expected ", kHeaderBytes),
           "the file is cut off");
  const auto version = read_value<int32_t>(file, 4), tokens = read_value<int32_t>(file, 8);
  const int32_t known = is_gpt2 ? 1 : 7;
  if (version != known)
    refuse(file.path(), cat("llm.c version ", version, ", expected ", known),
           "write the file again with the current llm.c");
  Layout layout{.format = "llm.c", .first_byte = kHeaderBytes, .documents = {}};
  layout.width = is_gpt2 ? 2 : 4;
  const uint64_t stored = file.size() - kHeaderBytes;
  if (tokens < 0 || stored != static_cast<uint64_t>(tokens) * layout.width)
    refuse(file.path(),
           cat("the header says ", tokens, " tokens of ", layout.width, " bytes, but ", stored,
               " bytes follow it"),
           "the file is cut off or damaged");
  layout.tokens = static_cast<uint64_t>(tokens);
  return layout;
}

Layout raw_layout(const InputFile& file) {
  if (file.size() % 2 != 0)
    refuse(file.path(), cat(file.size(), " bytes are no whole number of uint16 tokens"),
           "expected llm.c, nanoGPT or, with an .idx beside it, Megatron tokens");
  return {.format = "nanoGPT", .tokens = file.size() / 2, .documents = {}};
}

/// Header: magic, version, type, number of sequences and of document borders; then the length of
/// each sequence (int32), its place in the .bin (int64), and the sequence each document begins at.
Layout megatron_layout(const InputFile& file, const InputFile& index) {
  constexpr uint64_t kHeaderBytes = 34;
  const auto wrong = [&](const std::string& what) {
    refuse(index.path(), what, "not a Megatron index, or not the one of this .bin");
  };
  char magic[kMegatronMagic.size()];
  if (index.size() < kHeaderBytes) wrong(cat("only ", index.size(), " bytes"));
  index.read(0, magic, sizeof magic);
  if (std::string_view(magic, sizeof magic) != kMegatronMagic) wrong("does not begin with MMIDIDX");
  if (const auto version = read_value<uint64_t>(index, 9); version != 1)
    wrong(cat("version ", version, ", expected 1"));
  const int type = read_value<uint8_t>(index, 17);
  const int width = type == 8 ? 2 : type == 4 ? 4 : 0;
  if (width == 0) wrong(cat("token type ", type, " is neither uint16 (8) nor int32 (4)"));
  const auto sequences = read_value<uint64_t>(index, 18), borders = read_value<uint64_t>(index, 26);
  const uint64_t rest = index.size() - kHeaderBytes;
  // Compared by division: the product of a forged count may wrap around.
  if (sequences > rest / 12 || borders > rest / 8 || sequences * 12 + borders * 8 > rest)
    wrong(cat(sequences, " sequences and ", borders, " document borders do not fit into ",
              index.size(), " bytes"));
  const auto lengths = read_values<int32_t>(index, kHeaderBytes, sequences);
  const auto places = read_values<int64_t>(index, kHeaderBytes + 4 * sequences, sequences);
  const auto begins = read_values<int64_t>(index, kHeaderBytes + 12 * sequences, borders);

  Layout layout{.format = "Megatron", .documents = {}};
  layout.width = width;
  std::vector<uint64_t> ends{0};  // of the first i sequences, in tokens
  for (uint64_t i = 0; i < sequences; ++i) {
    if (lengths[i] < 0) wrong(cat("sequence ", i, " has ", lengths[i], " tokens"));
    if (places[i] != static_cast<int64_t>(ends.back() * width))
      wrong(cat("sequence ", i, " is at byte ", places[i], ", expected ", ends.back() * width));
    ends.push_back(ends.back() + static_cast<uint64_t>(lengths[i]));
  }
  layout.tokens = ends.back();
  if (layout.tokens * width != file.size())
    refuse(file.path(),
           cat("has ", file.size(), " bytes, but its index says ", layout.tokens, " tokens of ",
               width, " bytes"),
           "the file is cut off, or the index is that of another file");
  int64_t last = 0;
  for (const int64_t begin : begins) {
    if (begin < last || begin > std::ssize(lengths))
      wrong(
          cat("a document begins at sequence ", begin, " after one at ", last, " of ", sequences));
    last = begin;
    if (begin > 0) layout.documents.push_back(ends[begin]);
  }
  if (layout.documents.empty() || layout.documents.back() != layout.tokens)
    layout.documents.push_back(layout.tokens);
  return layout;
}

fs::path with_extension(fs::path path, const char* extension) {
  return path.replace_extension(extension);
}

}  // namespace

struct TokenFile::Impl {
  Impl(const fs::path& path, const TokenFileOptions& given)
      : options(given), file(with_extension(path, ".bin")) {
    const fs::path beside = with_extension(path, ".idx");
    if (fs::exists(beside)) index.emplace(beside);
    if (index) {
      layout = megatron_layout(file, *index);
    } else if (auto found = llm_c_layout(file)) {
      layout = *found;
    } else {
      layout = raw_layout(file);
    }
    if (layout.tokens == 0) refuse(file.path(), "no tokens", "the file is empty");
  }

  /// Ids from token `first` on, as many as one block has.
  std::span<const int32_t> block_at(uint64_t first) {
    if (first >= block_begin && first < block_begin + block.size())
      return std::span(block).subspan(first - block_begin);
    const uint64_t count = std::min(kBlockTokens, layout.tokens - first);
    const uint64_t offset = layout.first_byte + first * layout.width;
    block.resize(count);
    block_begin = first;
    if (layout.width == 2) {
      std::ranges::copy(read_values<uint16_t>(file, offset, count), block.begin());
    } else {
      file.read(offset, block.data(), count * sizeof(int32_t));
    }
    for (uint64_t i = 0; i < count; ++i)
      if (block[i] < 0 || block[i] >= options.vocab_size)
        refuse(file.path(),
               cat("token ", first + i, " is ", static_cast<uint32_t>(block[i]),
                   ", outside the vocabulary of ", options.vocab_size),
               "give the --tokenizer the file was made with, or the --vocab-size of that");
    return block;
  }

  bool next(std::vector<int32_t>& document) {
    document.clear();
    while (document.empty() && at < layout.tokens) {
      const uint64_t end = layout.documents.empty() ? layout.tokens : layout.documents[border++];
      while (at < end) {
        const int32_t id = block_at(at).front();
        if (layout.documents.empty()) {
          const bool begins_next = id == options.bos_id && options.bos_id >= 0;
          if (!document.empty() && (begins_next || document.size() == kMaxDocumentTokens)) break;
        }
        document.push_back(id);
        ++at;
        if (layout.documents.empty() && options.bos_id < 0 && options.eos_id == id) break;
      }
    }
    return !document.empty();
  }

  TokenFileOptions options;
  InputFile file;
  std::optional<InputFile> index;
  Layout layout;
  uint64_t at = 0;    ///< the next token
  size_t border = 0;  ///< the next of layout.documents
  std::vector<int32_t> block;
  uint64_t block_begin = 0;
};

bool TokenFile::is_named_by(const fs::path& path) {
  return path.extension() == ".bin" || path.extension() == ".idx";
}

TokenFile::TokenFile(const fs::path& path, const TokenFileOptions& options)
    : impl_(std::make_unique<Impl>(path, options)) {}
TokenFile::~TokenFile() = default;

bool TokenFile::next(std::vector<int32_t>& document) { return impl_->next(document); }
const std::string& TokenFile::format() const { return impl_->layout.format; }

std::vector<CorpusSource> TokenFile::sources() const {
  std::vector<CorpusSource> sources;
  const auto add = [&](const InputFile& file) {
    sources.push_back({.name = file.path().filename().string(),
                       .bytes = file.size(),
                       .sha256 = sha256_of_file(file.path())});
  };
  add(impl_->file);
  if (impl_->index) add(*impl_->index);
  return sources;
}

}  // namespace kvsmith
