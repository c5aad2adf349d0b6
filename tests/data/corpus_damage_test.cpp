#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <random>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hdf5.h>
#include <unistd.h>

#include "core/files.h"
#include "data/corpus.h"
#include "tests/data/sample_corpus.h"

namespace kvsmith {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

struct Strange {
  const char* name;
  std::string bytes;
  const char* message;
};

TEST(CorpusOpen, TellsWhatIsNoCorpus) {
  const TemporaryDirectory directory;
  write_small(directory / "good.h5");
  const std::string good = read_file(directory / "good.h5");
  const auto with = [&](size_t at, char value) {
    std::string bytes = good;
    bytes[at] = value;
    return bytes;
  };
  const Strange cases[] = {
      {"empty", "", "not an HDF5 file (0 bytes)"},
      {"text", std::string(5000, 'x'), "not an HDF5 file (5000 bytes)"},
      {"old superblock", with(8, 0), "superblock version 0, expected 3"},
      {"crashed writer", with(11, 1), "its writer did not finish"},
      {"trailing bytes", good + "x", "its superblock says"},
      {"userblock", std::string(512, '\0') + good, "not an HDF5 file"},
  };
  for (const Strange& c : cases) {
    std::ofstream(directory / "bad.h5", std::ios::binary) << c.bytes;
    EXPECT_THAT(error_of([&] { Corpus::open(directory / "bad.h5"); }),
                AllOf(StartsWith("65: "), HasSubstr("bad.h5"), HasSubstr(c.message)))
        << c.name;
  }
  EXPECT_THAT(error_of([&] { Corpus::open(directory / "missing.h5"); }), StartsWith("66: "));
  EXPECT_THAT(error_of([&] { Corpus::open(directory / ""); }), StartsWith("65: "));
  EXPECT_THAT(error_of([&] { Corpus::open(directory / "good.h5").split("test"); }),
              AllOf(StartsWith("65: "), HasSubstr("choose one of: train")));
}

/// Replaces /train/tokens by a dataset of `type`; closes `creation`.
void replace_tokens(hid_t file, hid_t type, hid_t creation, int rank = 1) {
  const hsize_t size[] = {100, 2}, most[] = {100, 2}, unlimited[] = {H5S_UNLIMITED, 2};
  ASSERT_GE(H5Ldelete(file, "/train/tokens", H5P_DEFAULT), 0);
  const bool chunked = H5Pget_layout(creation) == H5D_CHUNKED;
  const hid_t space = H5Screate_simple(rank, size, chunked ? unlimited : most);
  const hid_t dataset =
      H5Dcreate2(file, "/train/tokens", type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
  ASSERT_GE(dataset, 0);
  H5Dclose(dataset);
  H5Sclose(space);
  H5Pclose(creation);
}

hid_t chunked_properties(int rank = 1) {
  const hsize_t chunk[] = {65'536, 2};
  const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_chunk(creation, rank, chunk);
  return creation;
}

void set_integer(hid_t file, const char* name, int64_t value) {
  const hid_t attribute = H5Aopen(file, name, H5P_DEFAULT);
  ASSERT_GE(H5Awrite(attribute, H5T_NATIVE_INT64, &value), 0);
  H5Aclose(attribute);
}

void add_attribute(hid_t file, const char* object, const char* name) {
  const hid_t space = H5Screate(H5S_SCALAR);
  const int64_t value = 1;
  const hid_t attribute = H5Acreate_by_name(file, object, name, H5T_STD_I64LE, space, H5P_DEFAULT,
                                            H5P_DEFAULT, H5P_DEFAULT);
  ASSERT_GE(H5Awrite(attribute, H5T_NATIVE_INT64, &value), 0);
  H5Aclose(attribute);
  H5Sclose(space);
}

template <class T>
void set_first(hid_t file, const char* path, hid_t type, std::vector<T> values) {
  const hid_t dataset = H5Dopen2(file, path, H5P_DEFAULT);
  const hsize_t start[] = {1}, count[] = {values.size()};
  const hid_t space = H5Dget_space(dataset), memory = H5Screate_simple(1, count, nullptr);
  H5Sselect_hyperslab(space, H5S_SELECT_SET, start, nullptr, count, nullptr);
  ASSERT_GE(H5Dwrite(dataset, type, memory, space, H5P_DEFAULT, values.data()), 0);
  H5Sclose(memory);
  H5Sclose(space);
  H5Dclose(dataset);
}

/// Opens a file for changes as another program would.
void tamper(const std::filesystem::path& path, const std::function<void(hid_t)>& change) {
  const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, access);
  ASSERT_GE(file, 0);
  change(file);
  ASSERT_GE(H5Fclose(file), 0);
  H5Pclose(access);
}

struct Tampering {
  const char* message;
  std::function<void(hid_t)> change;
};

TEST(CorpusOpen, RefusesWhatIsNotOfTheSchema) {
  const TemporaryDirectory directory;
  const std::string secret = directory / "secret";
  std::ofstream(secret) << std::string(4096, 's');
  const Tampering cases[] = {
      {"/train/tokens: has data in another file (external storage)",
       [&](hid_t file) {
         const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
         H5Pset_external(creation, secret.c_str(), 0, 4096);
         replace_tokens(file, H5T_STD_U16LE, creation);
       }},
      {"/train/tokens: has a layout that is not chunked",
       [&](hid_t file) {
         const hsize_t size[] = {100};
         const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
         const hid_t space = H5Screate_simple(1, size, nullptr);
         ASSERT_GE(H5Pset_virtual(creation, space, secret.c_str(), "x", space), 0);
         H5Sclose(space);
         replace_tokens(file, H5T_STD_U16LE, creation);
       }},
      {"/train/tokens: has a layout that is not chunked",
       [](hid_t file) { replace_tokens(file, H5T_STD_U16LE, H5Pcreate(H5P_DATASET_CREATE)); }},
      {"/train/tokens: a soft or external link",
       [](hid_t file) {
         H5Ldelete(file, "/train/tokens", H5P_DEFAULT);
         H5Lcreate_soft("/train/document_bytes", file, "/train/tokens", H5P_DEFAULT, H5P_DEFAULT);
       }},
      {"/train: a soft or external link",
       [&](hid_t file) {
         H5Ldelete(file, "/train", H5P_DEFAULT);
         H5Lcreate_external(secret.c_str(), "/train", file, "/train", H5P_DEFAULT, H5P_DEFAULT);
       }},
      {"_xxh3: reached by 2 links",
       [](hid_t file) {
         H5Ldelete(file, "/sources_xxh3", H5P_DEFAULT);
         H5Lcreate_hard(file, "/tokenizer_xxh3", file, "/sources_xxh3", H5P_DEFAULT, H5P_DEFAULT);
       }},
      {"/train/tokens: has filters other than exactly Fletcher32",
       [](hid_t file) {
         const hid_t creation = chunked_properties();
         H5Pset_deflate(creation, 1);
         replace_tokens(file, H5T_STD_U16LE, creation);
       }},
      {"/train/tokens: has filters other than exactly Fletcher32",
       [](hid_t file) { replace_tokens(file, H5T_STD_U16LE, chunked_properties()); }},
      {"/train/tokens: has a type other than little-endian uint16",
       [](hid_t file) {
         const hid_t creation = chunked_properties();
         H5Pset_fletcher32(creation);
         replace_tokens(file, H5T_STD_U16BE, creation);
       }},
      {"/train/tokens: has a type other than little-endian uint16",
       [](hid_t file) {
         const hid_t creation = chunked_properties();
         H5Pset_fletcher32(creation);
         replace_tokens(file, H5T_IEEE_F32LE, creation);
       }},
      {"/train/tokens: has chunks of",
       [](hid_t file) {
         const hid_t creation = chunked_properties(2);
         H5Pset_fletcher32(creation);
         replace_tokens(file, H5T_STD_U16LE, creation, 2);
       }},
      {"/train/tokens: declares 1099511627776 rows",
       [](hid_t file) {
         const hsize_t huge[] = {hsize_t{1} << 40};
         const hid_t dataset = H5Dopen2(file, "/train/tokens", H5P_DEFAULT);
         ASSERT_GE(H5Dset_extent(dataset, huge), 0);
         H5Dclose(dataset);
       }},
      {"/train: no member \"tokens\"",
       [](hid_t file) { H5Ldelete(file, "/train/tokens", H5P_DEFAULT); }},
      {"/: unknown member \"Extra\"",
       [](hid_t file) { H5Lmove(file, "/train", file, "/Extra", H5P_DEFAULT, H5P_DEFAULT); }},
      {"/: unknown attribute \"extra\"", [](hid_t file) { add_attribute(file, "/", "extra"); }},
      {"/train: has attributes", [](hid_t file) { add_attribute(file, "/train", "extra"); }},
      {"/train/tokens: has attributes",
       [](hid_t file) { add_attribute(file, "/train/tokens", "extra"); }},
      {"/: no attribute \"bos_id\"", [](hid_t file) { H5Adelete(file, "bos_id"); }},
      {"/: attribute \"schema\" is not a text",
       [](hid_t file) {
         H5Adelete(file, "schema");
         add_attribute(file, "/", "schema");
       }},
      {"/: schema \"kvsmith.corpus\" version 4, expected \"kvsmith.corpus\" version 1 to 3",
       [](hid_t file) { set_integer(file, "version", 4); }},
      {"bos_id 700, eos_id 2 do not go together",
       [](hid_t file) { set_integer(file, "bos_id", 700); }},
      {"/: attributes or chunk hashes were changed",
       [](hid_t file) { set_integer(file, "bos_id", 3); }},
  };
  for (const Tampering& c : cases) {
    const auto path = directory / "c.h5";
    write_small(path);
    tamper(path, c.change);
    EXPECT_THAT(error_of([&] { Corpus::open(path).verify(); }),
                AllOf(StartsWith("65: "), HasSubstr(c.message)));
  }
}

/// Stores the fingerprint that an otherwise consistent file should have.
void reseal(const std::filesystem::path& path) {
  const std::string error = error_of([&] { Corpus::open(path); });
  const std::string label = "fingerprint ";
  const std::string found = error.substr(error.find(label) + label.size(), 64);
  tamper(path, [&](hid_t file) {
    const hid_t attribute = H5Aopen(file, "fingerprint", H5P_DEFAULT);
    const hid_t type = H5Aget_type(attribute);
    ASSERT_GE(H5Awrite(attribute, type, found.data()), 0);
    H5Tclose(type);
    H5Aclose(attribute);
  });
}

TEST(CorpusRead, RefusesChangedTokensWhoseFletcher32IsRight) {
  const TemporaryDirectory directory;
  const auto path = directory / "c.h5";
  write_small(path);
  tamper(path, [](hid_t file) {
    set_first<uint16_t>(file, "/train/tokens", H5T_NATIVE_UINT16, {9, 9, 9});
  });
  const Corpus corpus = Corpus::open(path);
  const auto split = corpus.split("train");
  std::vector<int32_t> ids(10);
  const char* message = "/train/tokens: chunk 0 (rows 0 to 5357) fails its XXH3 checksum";
  EXPECT_THAT(error_of([&] { split->read(0, ids); }), HasSubstr(message));
  EXPECT_THAT(error_of([&] { corpus.verify(); }), HasSubstr(message));
  EXPECT_THAT(error_of([&] { split->read(5355, ids); }), StartsWith("70: "));
}

TEST(CorpusRead, RefusesTokensOutsideTheVocabularyWithTheirPosition) {
  const TemporaryDirectory directory;
  const auto path = directory / "c.h5";
  write_sample(path, sample_info(500), {{"train", {{1, 2, 3, 499, 5}}}});
  tamper(path, [](hid_t file) { set_integer(file, "vocab_size", 499); });
  reseal(path);
  EXPECT_THAT(error_of([&] { Corpus::open(path).verify(); }),
              AllOf(StartsWith("65: "),
                    HasSubstr("token 499 at position 3 is outside the vocabulary of 499")));
}

TEST(CorpusRead, RefusesADocumentIndexThatDoesNotFit) {
  const TemporaryDirectory directory;
  const struct {
    std::vector<uint64_t> offsets;  // from the second on; right is 2, 5
    const char* message;
  } cases[] = {{{4, 3}, "document 2 begins at token 3, the one before at 4"},
               {{2, 6}, "document 2 begins at token 6, the one before at 2, of 5 tokens"},
               {{2, 4}, "documents end at token 4 of 5"}};
  for (const auto& c : cases) {
    const auto path = directory / "c.h5";
    write_sample(path, sample_info(500), {{"train", {{1, 2}, {1, 2, 3}}}});
    std::vector<uint64_t> all = {0};
    all.insert(all.end(), c.offsets.begin(), c.offsets.end());
    const auto hash = xxh3_128(all.data(), 24);
    tamper(path, [&](hid_t file) {
      set_first<uint64_t>(file, "/train/document_offsets", H5T_NATIVE_UINT64, c.offsets);
      const hid_t dataset = H5Dopen2(file, "/train/document_offsets_xxh3", H5P_DEFAULT);
      ASSERT_GE(H5Dwrite(dataset, H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, hash.data()),
                0);
      H5Dclose(dataset);
    });
    reseal(path);
    const Corpus corpus = Corpus::open(path);
    EXPECT_THAT(error_of([&] { corpus.split("train")->offset(0); }), HasSubstr(c.message));
    EXPECT_THAT(error_of([&] { corpus.split("train")->text_bytes(0); }), StartsWith("65: "));
  }
}

/// Tests of every length and bit take a minute; without this they take a sample.
bool exhaustive() { return std::getenv("KVSMITH_EXHAUSTIVE") != nullptr; }

TEST(CorpusDamage, EveryTruncationIsRefused) {
  const TemporaryDirectory directory;
  const auto path = directory / "c.h5";
  write_small(path);
  expect_in_child([&]() -> std::string {
    for (auto size = std::filesystem::file_size(path); size-- > 0;) {
      if (!exhaustive() && size > 5'000 && size % 17 != 0) continue;
      std::filesystem::resize_file(path, size);
      const std::string error = error_of([&] { Corpus::open(path); });
      if (!error.starts_with("65: ")) return cat("cut to ", size, " bytes: ", error);
    }
    return "";
  });
}

TEST(CorpusDamage, AZeroedTailIsRefused) {
  const TemporaryDirectory directory;
  const auto path = directory / "c.h5";
  write_small(path);
  const std::string bytes = read_file(path);
  expect_in_child([&]() -> std::string {
    for (size_t kept = 48; kept + 5'000 < bytes.size(); kept += 4'999) {
      std::string damaged = bytes.substr(0, kept);
      damaged.resize(bytes.size(), '\0');
      std::ofstream(path, std::ios::binary) << damaged;
      const std::string error = error_of([&] { Corpus::open(path).verify(); });
      if (!error.starts_with("65: ")) return cat("zeros from byte ", kept, ": ", error);
    }
    return "";
  });
}

/// Which bytes of a file hold chunks of datasets; the others are metadata.
std::vector<bool> chunk_bytes(const std::filesystem::path& path) {
  std::vector<bool> covered(std::filesystem::file_size(path));
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  for (const char* column : {"/train/tokens", "/train/document_offsets", "/train/document_bytes",
                             "/sources", "/tokenizer"}) {
    for (const char* suffix : {"", "_xxh3"}) {
      const hid_t dataset = H5Dopen2(file, cat(column, suffix).c_str(), H5P_DEFAULT);
      const hid_t space = H5Dget_space(dataset);
      hsize_t chunks = 0, offset[2], size = 0;
      H5Dget_num_chunks(dataset, space, &chunks);
      for (hsize_t i = 0; i < chunks; ++i) {
        unsigned mask = 0;
        haddr_t address = 0;
        H5Dget_chunk_info(dataset, space, i, offset, &mask, &address, &size);
        std::fill_n(covered.begin() + static_cast<ptrdiff_t>(address), size, true);
      }
      H5Sclose(space);
      H5Dclose(dataset);
    }
  }
  H5Fclose(file);
  return covered;
}

TEST(CorpusDamage, AFlippedBitIsFoundOrChangesNothing) {
  const TemporaryDirectory directory;
  const auto path = directory / "c.h5";
  write_small(path);
  const CorpusContent original = content_of(path);
  const std::string bytes = read_file(path);
  const std::vector<bool> in_chunk = chunk_bytes(path);

  // All bits of the metadata, or another one of every third byte.
  std::vector<std::pair<size_t, size_t>> flips;
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (size_t bit = 0; bit < 8 && !in_chunk[i]; ++bit) {
      if (exhaustive() || i % 24 == 3 * bit) flips.emplace_back(i, bit);
    }
  }
  ASSERT_GT(flips.size(), 1'000u);
  std::mt19937_64 random(7);
  for (int i = 0; i < (exhaustive() ? 20'000 : 300); ++i) {
    flips.emplace_back(random() % bytes.size(), random() % 8);
  }
  RecordProperty("flips", static_cast<int>(flips.size()));

  constexpr size_t kBatch = 1000;
  for (size_t first = 0; first < flips.size(); first += kBatch) {
    expect_in_child([&]() -> std::string {
      const int fd = ::open(path.c_str(), O_RDWR);
      for (size_t i = first; i < std::min(flips.size(), first + kBatch); ++i) {
        const auto [at, bit] = flips[i];
        const auto offset = static_cast<off_t>(at);
        const char flipped = static_cast<char>(bytes[at] ^ (1 << bit));
        bool identical = true;
        if (::pwrite(fd, &flipped, 1, offset) != 1) return "cannot write";
        const std::string error = error_of([&] { identical = same(content_of(path), original); });
        if (::pwrite(fd, &bytes[at], 1, offset) != 1) return "cannot write";
        const bool refused = error.starts_with("65: ");
        if (!refused && (error != "nothing thrown" || !identical)) {
          return cat("byte ", at, " bit ", bit, ": ", error, identical ? "" : ", data changed");
        }
      }
      return "";
    });
  }
}

}  // namespace
}  // namespace kvsmith
