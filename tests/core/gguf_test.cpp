#include "core/gguf.h"

#include <chrono>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/hash.h"
#include "core/text.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_directory.h"

namespace kvsmith {
namespace {

/// write_file() without waiting for the disk.
void put(const std::filesystem::path& path, const std::string& bytes) {
  std::filesystem::remove(path);
  std::ofstream(path, std::ios::binary) << bytes;
}

template <class T>
std::string raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
std::string u32(uint32_t value) { return raw(value); }
std::string u64(uint64_t value) { return raw(value); }
std::string text(const std::string& value) { return u64(value.size()) + value; }

std::string start(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
  return "GGUF" + u32(version) + u64(tensors) + u64(keys);
}
/// A key of some type, with the bytes of its value.
std::string key(const std::string& name, uint32_t type, const std::string& value) {
  return text(name) + u32(type) + value;
}
std::string tensor(const std::string& name,
                   const std::vector<uint64_t>& dims,
                   uint32_t type,
                   uint64_t offset) {
  std::string bytes = text(name) + u32(static_cast<uint32_t>(dims.size()));
  for (const uint64_t size : dims) bytes += u64(size);
  return bytes + u32(type) + u64(offset);
}
/// The header padded as it has to be, and so much data.
std::string with_data(std::string header, size_t data, size_t alignment = 32) {
  header.resize((header.size() + alignment - 1) / alignment * alignment);
  return header + std::string(data, 'd');
}

/// A file with a value of every type that is written and a tensor of several types.
void write_example(const std::filesystem::path& path) {
  GgufMetadata metadata;
  metadata.add_text("general.architecture", "llama");
  metadata.add_uint32("llama.block_count", 2);
  metadata.add_float32("llama.eps", 1e-5F);
  metadata.add_flag("llama.flag", true);
  metadata.add_texts("tokens", {"a", "", "h\xc3\xa4"});
  metadata.add_int32s("types", {1, -2, 3});
  metadata.add_float32s("scores", {0.5F, -1});
  GgufWriter writer(path, metadata,
                    {{.name = "embd", .type = GgmlType::kQ80, .shape = {3, 32}},
                     {.name = "norm", .type = GgmlType::kF32, .shape = {5}},
                     {.name = "cube", .type = GgmlType::kF16, .shape = {2, 3, 4}}});
  for (const auto& info : std::vector<GgufTensor>(writer.tensors()))
    writer.write(info.name, std::string(info.bytes, info.name[0]).data(), info.bytes);
  writer.commit();
}

TEST(Gguf, WhatIsWrittenIsRead) {
  const TemporaryDirectory directory;
  write_example(directory / "x.gguf");
  const GgufFile file(directory / "x.gguf");
  EXPECT_EQ(file.version(), 3U);
  EXPECT_EQ(file.alignment(), 32U);
  EXPECT_EQ(file.keys().size(), 7U);
  EXPECT_EQ(file.text("general.architecture"), "llama");
  EXPECT_EQ(file.integer("llama.block_count"), 2);
  EXPECT_EQ(file.number("llama.eps"), 1e-5);  // not 9.9999997e-06
  EXPECT_TRUE(file.flag("llama.flag"));
  EXPECT_EQ(file.texts("tokens"), (std::vector<std::string_view>{"a", "", "h\xc3\xa4"}));
  EXPECT_EQ(file.integers("types"), (std::vector<int64_t>{1, -2, 3}));
  EXPECT_EQ(file.numbers("scores"), (std::vector<float>{0.5F, -1}));
  EXPECT_TRUE(file.has("types"));
  EXPECT_TRUE(file.is_array("types"));
  EXPECT_FALSE(file.is_array("llama.eps"));
  ASSERT_EQ(file.tensors().size(), 3U);
  const GgufTensor& embd = *file.find("embd");
  EXPECT_EQ(embd.shape, (std::vector<int64_t>{3, 32}));
  EXPECT_EQ(embd.bytes, 3U * 34);
  EXPECT_EQ(file.find("cube")->shape, (std::vector<int64_t>{2, 3, 4}));
  for (const auto& [name, info] : file.tensors()) {
    EXPECT_EQ(info.offset % 32, 0U);
    std::string data(info.bytes, ' ');
    file.read(info, data.data());
    EXPECT_EQ(data, std::string(info.bytes, name[0]));
  }
  EXPECT_EQ(file.find("none"), nullptr);
}

TEST(Gguf, ReadsEveryTypeOfValueBothVersionsAndOtherAlignments) {
  const TemporaryDirectory directory;
  const std::string keys =
      key("u8", 0, raw(uint8_t{200})) + key("i8", 1, raw(int8_t{-3})) +
      key("u16", 2, raw(uint16_t{60000})) + key("i16", 3, raw(int16_t{-300})) +
      key("u32", 4, u32(4'000'000'000)) + key("i32", 5, raw(int32_t{-70000})) +
      key("f32", 6, raw(0.1F)) + key("no", 7, raw(uint8_t{0})) + key("s", 8, text("hi")) +
      key("list", 9, u32(10) + u64(2) + u64(7) + u64(8)) + key("u64", 10, u64(1ULL << 40)) +
      key("i64", 11, raw(int64_t{-5})) + key("f64", 12, raw(0.1)) +
      key("big", 10, u64(~uint64_t{0})) + key("bigs", 9, u32(10) + u64(1) + u64(~uint64_t{0})) +
      key("empty", 9, u32(8) + u64(0)) + key("general.alignment", 4, u32(64));
  for (const uint32_t version : {2, 3}) {
    put(directory / "x", with_data(start(1, 17, version) + keys + tensor("w", {4}, 0, 0), 16, 64));
    const GgufFile file(directory / "x");
    const std::pair<const char*, int64_t> integers[] = {{"u8", 200},
                                                        {"i8", -3},
                                                        {"u16", 60000},
                                                        {"i16", -300},
                                                        {"u32", 4'000'000'000},
                                                        {"i32", -70000},
                                                        {"u64", int64_t{1} << 40},
                                                        {"i64", -5}};
    for (const auto& [name, value] : integers) EXPECT_EQ(file.integer(name), value) << name;
    EXPECT_EQ(file.number("f32"), 0.1);
    EXPECT_EQ(file.number("f64"), 0.1);
    EXPECT_FALSE(file.flag("no"));
    EXPECT_EQ(file.text("s"), "hi");
    EXPECT_EQ(file.integers("list"), (std::vector<int64_t>{7, 8}));
    EXPECT_TRUE(file.texts("empty").empty());
    EXPECT_EQ(file.alignment(), 64U);
    EXPECT_EQ(file.find("w")->offset % 64, 0U);

    const std::string where = (directory / "x").string();
    expect_error([&] { (void)file.integer("big"); }, ExitCode::kBadData,
                 "metadata \"big\" is of type uint64");
    expect_error([&] { (void)file.integers("bigs"); }, ExitCode::kBadData, "below 2^63");
    expect_error([&] { (void)file.integer("f32"); }, ExitCode::kBadData, "is of type float32");
    expect_error([&] { (void)file.integer("list"); }, ExitCode::kBadData, "array of type uint64");
    expect_error([&] { (void)file.number("u8"); }, ExitCode::kBadData, "expected a float");
    expect_error([&] { (void)file.text("u8"); }, ExitCode::kBadData, "expected a text");
    expect_error([&] { (void)file.flag("u8"); }, ExitCode::kBadData, "expected a bool");
    expect_error([&] { (void)file.texts("s"); }, ExitCode::kBadData, "expected an array of texts");
    expect_error([&] { (void)file.texts("list"); }, ExitCode::kBadData, "is an array of type");
    expect_error([&] { (void)file.numbers("list"); }, ExitCode::kBadData, "of type float32");
    expect_error([&] { (void)file.integer("empt"); }, ExitCode::kConfig,
                 where + ": metadata \"empt\" is missing; there is \"empty\"");
  }
}

TEST(Gguf, MalformedFilesAreRefusedWithTheReasonAndTheByte) {
  const TemporaryDirectory directory;
  const auto path = directory / "x.gguf";
  const auto one = [](const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset,
                      size_t data) {
    return with_data(start(1, 0) + tensor("w", dims, type, offset), data);
  };
  const auto two = [](uint64_t first, uint64_t second, size_t data) {
    return with_data(start(2, 0) + tensor("a", {9}, 0, first) + tensor("b", {9}, 0, second), data);
  };
  const auto value = [](const std::string& bytes) { return with_data(start(0, 1) + bytes, 0); };
  const auto aligned_to = [&](uint32_t number) {
    return value(key("general.alignment", 4, u32(number)));
  };
  const uint64_t most = std::numeric_limits<int64_t>::max(), all = ~uint64_t{0};
  const struct {
    std::string file, message;
  } cases[] = {
      // The start
      {"", "is cut off: the magic number takes 4 bytes and 0 are left, at byte 0"},
      {"GGU", "takes 4 bytes and 3 are left"},
      {"GGML" + std::string(40, '\0'), "does not begin with GGUF, at byte 0"},
      {"GGUF" + std::string("\0\0\0\3", 4) + std::string(40, '\0'), "is big-endian"},
      {start(0, 0, 1), "has version 1, at byte 4; versions 2 and 3"},
      {start(0, 0, 4), "has version 4"},
      {start(0, 0).substr(0, 23), "is cut off: the number of metadata keys"},
      {start(all, 0), "says it has 18446744073709551615 tensors, for which 0 bytes are too few"},
      {start(0, all), "says it has 18446744073709551615 metadata keys"},
      {start(1, 0), "says it has 1 tensors, for which 0 bytes"},
      {start(0, 2) + std::string(27, ' '), "2 metadata keys, for which 27 bytes are too few"},
      // Keys and values
      {value(key("", 4, u32(1))), "has a metadata key of 0 bytes, at byte 24"},
      {value(key(std::string(65'536, 'k'), 4, u32(1))), "a metadata key of 65536 bytes"},
      {value(key("a\xc3\xa4", 4, u32(1))), "expected printable ASCII"},
      {value(key("a b", 4, u32(1))), "has the metadata key \"a b\""},
      {value(u64(all) + "key and value"), "a metadata key takes 18446744073709551615 bytes"},
      {value(key("k", 13, u32(1))), "metadata \"k\" has a value of type 13, at byte 33"},
      {value(key("k", 7, raw(uint8_t{2}))), "metadata \"k\" has the bool 2, at byte 37"},
      {value(key("k", 8, u64(100) + "abc")), "a text takes 100 bytes"},
      {value(key("k", 8, u64(all) + "abc")), "a text takes 18446744073709551615 bytes"},
      {start(0, 1) + key("k", 10, u32(1)) + "abc", "the value takes 8 bytes and 7 are left"},
      {value(key("k", 9, u32(4) + u64(1000))), "says it has 1000 elements, for which"},
      {value(key("k", 9, u32(4) + u64(all))), "says it has 18446744073709551615 elements"},
      {value(key("k", 9, u32(8) + u64(1ULL << 60))), "elements, for which"},
      {value(key("k", 9, u32(12) + u64(1ULL << 61))), "elements, for which"},
      {value(key("k", 9, u32(9) + u64(1) + u32(4) + u64(0))), "is an array of arrays"},
      {value(key("k", 9, u32(77) + u64(1))), "has a value of type 77"},
      {value(key("k", 9, u32(7) + u64(3) + std::string("\0\1\xff", 3))), "has the bool -1"},
      {with_data(start(0, 2) + key("k", 4, u32(1)) + key("k", 4, u32(1)), 0),
       "metadata \"k\" is there twice, at byte 41"},
      {aligned_to(0), "has a bad general.alignment, at byte 53"},
      {aligned_to(4), "has a bad general.alignment"},
      {aligned_to(48), "power of two from 8 to 1048576"},
      {aligned_to(1U << 21), "has a bad general.alignment"},
      {value(key("general.alignment", 10, u64(32))), "has a bad general.alignment"},
      {value(key("general.alignment", 8, text("32"))), "has a bad general.alignment"},
      // Tensors
      {with_data(start(1, 0) + tensor("", {4}, 0, 0), 16), "a tensor name of 0 bytes, at byte 24"},
      {with_data(start(1, 0) + tensor(std::string(65, 'n'), {4}, 0, 0), 16), "name of 65 bytes"},
      {with_data(start(1, 0) + u64(all) + std::string(60, ' '), 0), "the name of a tensor takes"},
      {one({}, 0, 0, 16), "tensor \"w\" has 0 dimensions"},
      {one({1, 1, 1, 1, 4}, 0, 0, 16),
       "tensor \"w\" has 5 dimensions, at byte 33; expected 1 to 4"},
      {one({4, 0}, 0, 0, 16), "has a dimension of 0"},
      {one({4, most + 1}, 0, 0, 16), "has a dimension of 9223372036854775808"},
      {one({most}, 0, 0, 16), "is [9223372036854775807]"},
      {one({1ULL << 32, 1ULL << 32}, 0, 0, 16), "expected less than 2^63 bytes"},
      {one({1ULL << 62, 2, 2, 2}, 2, 0, 16), "expected less than 2^63 bytes"},
      {one({256}, 23, 0, 136), "is of type 23 (IQ4_XS), at byte 45; supported: F32, F16, BF16"},
      {one({4}, 4, 0, 16), "is of type 4, at"},
      {one({4}, 4'000'000'000, 0, 16), "is of type 4000000000"},
      {one({33}, 2, 0, 36), "has rows of 33 elements, at byte 45; Q4_0 needs a multiple of 32"},
      {one({32}, 14, 0, 36), "Q6_K needs a multiple of 256"},
      {with_data(start(2, 0) + tensor("w", {8}, 0, 0) + tensor("w", {8}, 0, 32), 64),
       "tensor \"w\" is there twice"},
      {one({4}, 0, 8, 32), "begins at byte 8 of the data, at byte 49; expected 0"},
      {one({4}, 0, all, 32), "begins at byte 18446744073709551615 of the data"},
      {one({5}, 0, 0, 16), "has 20 bytes from byte 0 of the data on, which ends before"},
      {one({most / 4}, 0, 0, 16), "of the data on, which ends before"},
      {start(1, 0) + tensor("w", {4}, 0, 0), "of the data on, which ends before"},
      {two(0, 32, 100), "tensor \"b\" begins at byte 32 of the data, inside the tensor before it"},
      {two(0, 36, 100), "begins at byte 36 of the data, at byte 82; expected 64, the first multip"},
      {two(0, 96, 164), "begins at byte 96 of the data"},
      {two(64, 0, 100), "tensor \"a\" begins at byte 64 of the data"},
      {two(0, 0, 100), "tensor \"b\" begins at byte 0 of the data, inside the tensor before it"},
      {two(0, 64, 99), "tensor \"b\" has 36 bytes from byte 64 of the data on"},
      {one({4}, 0, 0, 33), "has 1 bytes that belong to no tensor, at byte 96"},
      {with_data(start(0, 0), 1), "has 1 bytes that belong to no tensor"},
  };
  for (const auto& [file, message] : cases) {
    put(path, file);
    SCOPED_TRACE(message);
    expect_error([&] { GgufFile{path}; }, ExitCode::kBadData, message);
    expect_error([&] { GgufFile{path}; }, ExitCode::kBadData, path.string() + ": ");
  }
  put(path, one({4}, 0, 0, 32));  // padded to the end
  EXPECT_EQ(GgufFile(path).find("w")->bytes, 16U);
  put(path, two(0, 64, 100));
  EXPECT_EQ(GgufFile(path).tensors().size(), 2U);
}

TEST(Gguf, EveryTruncationIsRefused) {
  const TemporaryDirectory directory;
  write_example(directory / "x");
  // what follows the last tensor is padding, and may be missing
  const auto& cube = *GgufFile(directory / "x").find("cube");
  for (auto size = cube.offset + cube.bytes; size > 0;) {
    std::filesystem::resize_file(directory / "x", --size);
    EXPECT_THROW(GgufFile{directory / "x"}, Error) << size << " bytes";
  }
}

TEST(Gguf, AFlippedBitIsRefusedOrReadWithinTheFile) {
  const TemporaryDirectory directory;
  write_example(directory / "x");
  const std::string bytes = read_file(directory / "x");
  const uint64_t header = GgufFile(directory / "x").find("embd")->offset;
  std::fstream in_place(directory / "x", std::ios::in | std::ios::out | std::ios::binary);
  const auto write_byte = [&](size_t at, char byte) {
    in_place.seekp(static_cast<std::streamoff>(at)).put(byte).flush();
  };
  int accepted = 0, refused = 0;
  for (size_t bit = 0; bit < 8 * header; ++bit) {
    write_byte(bit / 8, static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8)));
    try {
      const GgufFile file(directory / "x");
      EXPECT_EQ(file.tensors().size(), 3U) << "bit " << bit;
      for (const auto& [name, tensor] : file.tensors()) {
        EXPECT_LE(tensor.offset + tensor.bytes, bytes.size()) << "bit " << bit;
        std::string data(tensor.bytes, ' ');
        file.read(tensor, data.data());
      }
      if (file.has("tokens") && file.is_array("tokens")) (void)file.texts("tokens");
      ++accepted;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadData) << "bit " << bit << ": " << error.what();
      EXPECT_NE(std::string(error.what()).find(", at byte "), std::string::npos) << error.what();
      ++refused;
    }
    write_byte(bit / 8, bytes[bit / 8]);
  }
  EXPECT_GT(refused, static_cast<int>(3 * header)) << "of " << 8 * header;
  EXPECT_GT(accepted, 0) << "letters of names, and values";
}

TEST(Gguf, LongListsOfTokensAreReadAtOnce) {
  const TemporaryDirectory directory;
  std::vector<std::string> tokens;
  for (int i = 0; i < 200'000; ++i) tokens.push_back(cat("token", i));
  GgufMetadata metadata;
  metadata.add_texts("tokens", tokens);
  GgufWriter(directory / "x", metadata, {}).commit();
  const auto before = std::chrono::steady_clock::now();
  const GgufFile file(directory / "x");
  const auto back = file.texts("tokens");
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - before;
  ASSERT_EQ(back.size(), tokens.size());
  EXPECT_TRUE(std::ranges::equal(back, tokens));
  EXPECT_LT(seconds.count(), 1.0);  // some milliseconds
}

TEST(Gguf, BytesAreDeterministicAndHashed) {
  const TemporaryDirectory directory;
  GgufMetadata metadata;
  metadata.add_uint32("k", 7);
  GgufWriter writer(directory / "x", metadata,
                    {{.name = "w", .type = GgmlType::kF16, .shape = {2, 1}}});
  writer.write("w", "abcd", 4);
  const std::string hash = writer.commit();
  EXPECT_EQ(read_file(directory / "x"),
            with_data(start(1, 1) + key("k", 4, u32(7)) + tensor("w", {1, 2}, 1, 0), 0) + "abcd" +
                std::string(28, '\0'));
  EXPECT_EQ(hash, sha256_of_file(directory / "x"));
}

TEST(Gguf, AFileCutAfterOpeningIsAnErrorNotACrash) {
  const TemporaryDirectory directory;
  write_example(directory / "x");
  const GgufFile file(directory / "x");
  const GgufTensor& cube = *file.find("cube");
  std::filesystem::resize_file(directory / "x", cube.offset + 1);
  std::string data(cube.bytes, ' ');
  expect_error([&] { file.read(cube, data.data()); }, ExitCode::kBadData, "ends after");
}

TEST(Gguf, TheWriterRefusesMisuse) {
  const TemporaryDirectory directory;
  const auto refused = [&](const std::vector<GgufTensor>& tensors, const std::string& why) {
    expect_error([&] { GgufWriter(directory / "x", {}, tensors); }, ExitCode::kInternal, why);
  };
  const GgufTensor good = {.name = "w", .type = GgmlType::kF32, .shape = {2}};
  refused({good, good}, "is a name in use");
  refused({{.name = std::string(65, 'n'), .shape = {2}}}, "not of 1 to 64 bytes");
  refused({{.name = "w", .shape = {}}}, "has not 1 to 4 dimensions");
  refused({{.name = "w", .shape = {2, 0}}}, "has the shape [2, 0]");
  refused({{.name = "w", .type = GgmlType::kQ80, .shape = {2, 33}}}, "no whole Q8_0 blocks");
  refused({{.name = "w", .shape = {int64_t{1} << 62, 4}}}, "more bytes than a number can hold");
  {
    GgufWriter writer(directory / "x", {}, {good});
    expect_error([&] { writer.write("v", "12345678", 8); }, ExitCode::kInternal, "is next, not");
    expect_error([&] { writer.commit(); }, ExitCode::kInternal, "lacks tensor \"w\" and 0 more");
    writer.write("w", "12345678", 8);
    expect_error([&] { writer.write("w", "1", 1); }, ExitCode::kInternal, "has all tensors");
  }
  EXPECT_TRUE(directory.names().empty());
}

}  // namespace
}  // namespace kvsmith
