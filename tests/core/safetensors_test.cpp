#include "core/safetensors.h"

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

/// write_file() without waiting for the disk: the tables here make thousands of files.
void put(const std::filesystem::path& path, const std::string& bytes) {
  std::filesystem::remove(path);
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string length_of(uint64_t value) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &value, 8);
  return bytes;
}

std::string file_of(const std::string& header, size_t data_bytes) {
  return length_of(header.size()) + header + std::string(data_bytes, 'd');
}

/// A header entry: "name":{"dtype":...,"shape":...,"data_offsets":...}.
std::string entry(const std::string& name,
                  const std::string& dtype,
                  const std::string& shape,
                  const std::string& offsets) {
  return cat('"', name, R"(":{"dtype":")", dtype, R"(","shape":)", shape, R"(,"data_offsets":)",
             offsets, "}");
}

/// A file with a tensor of every kind, in data order.
std::vector<TensorInfo> write_example(const std::filesystem::path& path) {
  const std::vector<TensorInfo> tensors = {
      {.name = "step", .dtype = "I64", .shape = {}},
      {.name = "a.weight", .dtype = "F32", .shape = {2, 3}},
      {.name = "none", .dtype = "F32", .shape = {0, 4}},
      {.name = "h\xc3\xa4lfte \"x\"\n", .dtype = "BF16", .shape = {5, 1}},
      {.name = "mask", .dtype = "BOOL", .shape = {3}},
  };
  SafetensorsWriter writer(path, tensors, {{"format", "pt"}, {"note", "tab\t"}});
  for (const auto& info : tensors) {
    uint64_t bytes = dtype_bytes(info.dtype);
    for (const int64_t size : info.shape) bytes *= static_cast<uint64_t>(size);
    writer.write(info.name, std::string(bytes, info.name[0]).data(), bytes);
  }
  writer.commit();
  return tensors;
}

TEST(Safetensors, WhatIsWrittenIsRead) {
  const TemporaryDirectory directory;
  const auto tensors = write_example(directory / "x.safetensors");
  const SafetensorsFile file(directory / "x.safetensors");
  EXPECT_EQ(file.metadata(),
            (std::map<std::string, std::string>{{"format", "pt"}, {"note", "tab\t"}}));
  EXPECT_EQ(file.tensors().size(), tensors.size());
  for (const auto& info : tensors) {
    const TensorInfo* const found = file.find(info.name);
    ASSERT_NE(found, nullptr) << info.name;
    EXPECT_EQ(found->name, info.name);
    EXPECT_EQ(found->dtype, info.dtype);
    EXPECT_EQ(found->shape, info.shape);
    EXPECT_EQ(found->offset % dtype_bytes(info.dtype), 0U);
    std::string data(found->bytes, ' ');
    file.read(*found, data.data());
    EXPECT_EQ(data, std::string(found->bytes, info.name[0]));
  }
  EXPECT_EQ(file.find("a.weight")->bytes, 24U);
  EXPECT_EQ(file.find("step")->offset % 64, 0U);
  EXPECT_EQ(file.find("a"), nullptr);
}

TEST(Safetensors, BytesAreDeterministicAndHashed) {
  const TemporaryDirectory directory;
  const std::vector<TensorInfo> tensors = {{.name = "a", .dtype = "U8", .shape = {2}}};
  SafetensorsWriter writer(directory / "x", tensors, {{"k", "v"}});
  writer.write("a", "xy", 2);
  const std::string hash = writer.commit();
  std::string header = R"({"__metadata__":{"k":"v"},)"
                       R"("a":{"data_offsets":[0,2],"dtype":"U8","shape":[2]}})";
  header.resize(120, ' ');
  EXPECT_EQ(read_file(directory / "x"), length_of(120) + header + "xy");
  EXPECT_EQ(hash, sha256_of_file(directory / "x"));
}

TEST(Safetensors, UnusualButSoundFilesAreRead) {
  const TemporaryDirectory directory;
  const std::string a = entry("a", "U8", "[2]", "[0,2]");
  const struct {
    std::string header;
    size_t data, tensors;
  } cases[] = {
      {"{}", 0, 0},
      {" \n\t{ } ", 0, 0},
      {R"({"__metadata__":{}})", 0, 0},
      {R"({"":{"dtype":"U8","shape":[],"data_offsets":[0,1]}})", 1, 1},
      {R"({"a":{"data_offsets":[0,1],"shape":[1],"dtype":"U8"}})", 1, 1},
      {"{" + entry("b", "F32", "[1]", "[2,6]") + "," + a + "}", 6, 2},  // not aligned, not in order
      {"{" + entry("z", "F64", "[0]", "[2,2]") + "," + a + "}", 2, 2},
      {"{" + entry("z", "F64", "[0]", "[0,0]") + "," + entry("y", "F64", "[9,0]", "[0,0]") + "}", 0,
       2},
      {"{" + entry("a", "U8", "[1,1,1,1,1,1,1,2]", "[0,2]") + "}", 2, 1},
      {"{" + entry("\\u00e4\\ud83d\\ude00", "C64", "[1]", "[0,8]") + "}", 8, 1},
  };
  for (const auto& [header, data, tensors] : cases) {
    put(directory / "x", file_of(header, data));
    EXPECT_EQ(SafetensorsFile(directory / "x").tensors().size(), tensors) << header;
  }
}

TEST(Safetensors, MalformedFilesAreRefusedWithTheReason) {
  const TemporaryDirectory directory;
  const auto path = directory / "x.safetensors";
  const auto one = [](const std::string& dtype, const std::string& shape,
                      const std::string& offsets, size_t data) {
    return file_of("{" + entry("w", dtype, shape, offsets) + "}", data);
  };
  const auto two = [](const std::string& first, const std::string& second, size_t data) {
    return file_of(
        "{" + entry("a", "U8", "[4]", first) + "," + entry("b", "U8", "[4]", second) + "}", data);
  };
  const auto header = [](const std::string& text) { return file_of(text, 0); };
  const auto body = [](const std::string& fields) {
    return file_of(R"({"w":{)" + fields + "}}", 4);
  };
  const std::string most = std::to_string(std::numeric_limits<int64_t>::max());
  const std::string w = ": tensor \"w\": ";
  const struct {
    std::string file, message;
  } cases[] = {
      // The length
      {"", ": has 0 bytes, less than the 8"},
      {"1234567", ": has 7 bytes, less than the 8"},
      {length_of(0), ": header does not start with {"},
      {length_of(3) + "{}", "says its header has 3 bytes, but only 2 follow"},
      {length_of(100'000'001) + "{}", "header has 100000001 bytes; at most 100000000"},
      {length_of(100'000'000) + "{}", "header has 100000000 bytes, but only 2 follow"},
      {length_of(uint64_t{1} << 63) + "{}", "header has 9223372036854775808 bytes; at most"},
      {length_of(~uint64_t{0}) + "{}", "header has 18446744073709551615 bytes; at most"},
      // The JSON
      {header("    "), "header does not start with {"},
      {header("[]"), "header does not start with {"},
      {header("\xef\xbb\xbf{}"), "header does not start with {"},
      {header(std::string("{}\0garbage", 10)), "header has a NUL byte at byte 10"},
      {header("{"), "header is not valid JSON near byte 10"},
      {header("{}}"), "header is not valid JSON near byte 11"},
      {header("{} x"), "header is not valid JSON"},
      {header("{,}"), "header is not valid JSON"},
      {header("{/**/}"), "header is not valid JSON"},
      {header("{\"a\xff\":{}}"), "ill-formed UTF-8 byte"},
      {header("{\"\xc0\xaf\":{}}"), "ill-formed UTF-8 byte"},
      {header("{\"\xed\xa0\x80\":{}}"), "ill-formed UTF-8 byte"},
      {header(R"({"\ud800":{}})"), "surrogate"},
      {header(R"({"a)"), "missing closing quote"},
      {header("{" + entry("w", "U8", "[4]", "[0,4]") + ",}"), "header is not valid JSON"},
      // The structure
      {header(R"({"w":1})"), w + "is the number 1, not an object"},
      {header(R"({"w":null})"), w + "is null, not an object"},
      {header(R"({"w":"U8"})"), w + "is \"U8\", not an object"},
      {header(R"({"w":[]})"), w + "is a list, not an object"},
      {header(R"({"w":)" + std::string(100'000, '[')), w + "is a list, not an object"},
      {header(R"({"w":{}})"), w + "has no dtype"},
      {body(R"("dtype":"U8")"), w + "has no shape"},
      {body(R"("dtype":"U8","shape":[4])"), w + "has no data_offsets"},
      {body(R"("dtype":"U8","shape":[4],"data_offsets":[0,4],"x":1)"), w + "has the unknown key"},
      {body(R"("dtype":"U8","dtype":"U8")"), w + "has the key \"dtype\" twice"},
      {body(R"("shape":[4],"dtype":"U8","shape":[1])"), w + "has the key \"shape\" twice"},
      {body(R"("data_offsets":[0,4],"data_offsets":[0,4])"), "\"data_offsets\" twice"},
      {body(R"("dtype":8)"), w + "has the number 8 for \"dtype\""},
      {body(R"("dtype":["U8"])"), w + "has a list for \"dtype\""},
      {body(R"("dtype":{"U8":1})"), w + "has an object for \"dtype\""},
      {body(R"("shape":4)"), w + "has the number 4 for \"shape\""},
      {body(R"("shape":"[4]")"), w + "has \"[4]\" for \"shape\""},
      {body(R"("shape":{})"), w + "has an object for \"shape\""},
      {body(R"("shape":[[4]])"), w + "has a list in its shape"},
      {body(R"("shape":["4"])"), w + "has \"4\" in its shape"},
      {body(R"("shape":[true])"), w + "has true in its shape"},
      {body(R"("data_offsets":[null,4])"), w + "has null in its data_offsets"},
      {file_of(
           "{" + entry("w", "U8", "[4]", "[0,4]") + "," + entry("w", "F32", "[1]", "[0,4]") + "}",
           4),
       w + "is there twice"},
      {file_of("{" + entry("w", "U8", "[4]", "[0,4]") + "," +
                   entry("\\u0077", "U8", "[0]", "[4,4]") + "}",
               4),
       w + "is there twice"},
      // Metadata
      {header(R"({"__metadata__":1})"), ": __metadata__: is the number 1, not an object"},
      {header(R"({"__metadata__":{"k":1}})"), "has the number 1 for \"k\", not a string"},
      {header(R"({"__metadata__":{"k":{}}})"), "has an object for \"k\", not a string"},
      {header(R"({"__metadata__":{"k":["v"]}})"), ": __metadata__: has a list for \"k\""},
      {header(R"({"__metadata__":{"k":"v","k":"v"}})"), "__metadata__: has the key \"k\" twice"},
      {header(R"({"__metadata__":{},"__metadata__":{}})"), ": __metadata__: is there twice"},
      // Numbers and types
      {one("F31", "[1]", "[0,4]", 4), w + "has the unsupported dtype \"F31\""},
      {one("f32", "[1]", "[0,4]", 4), w + "has the unsupported dtype \"f32\""},
      {one("", "[1]", "[0,4]", 4), w + "has the unsupported dtype \"\""},
      {one("F4", "[2]", "[0,1]", 1), w + "has the unsupported dtype \"F4\""},
      {one("U8", "[-1]", "[0,4]", 4), w + "has the number -1 in its shape"},
      {one("U8", "[-0]", "[0,0]", 0), w + "has the number 0 in its shape"},
      {one("U8", "[4.0]", "[0,4]", 4), w + "has the number 4.0 in its shape"},
      {one("U8", "[4e0]", "[0,4]", 4), w + "has the number 4e0 in its shape"},
      {one("U8", "[1e400]", "[0,4]", 4), "number overflow"},
      {one("U8", "[9223372036854775808]", "[0,4]", 4), w + "has the number 9223372036854775808"},
      {one("U8", "[99999999999999999999]", "[0,4]", 4), w + "has the number 99999999999999999999"},
      {one("U8", "[04]", "[0,4]", 4), "header is not valid JSON"},
      {one("U8", "[1,1,1,1,1,1,1,1,4]", "[0,4]", 4), w + "has more than 8 dimensions"},
      {one("F32", "[" + most + "]", "[0,4]", 4), "] has more bytes than a number can hold"},
      {one("U8", "[4294967296,4294967296]", "[0,0]", 0), "more bytes than a number can hold"},
      {one("U8", "[" + most + ",3,0]", "[0,0]", 0), "more bytes than a number can hold"},
      {one("U8", "[4]", "[0]", 4), w + "has 1 data_offsets where 2 were expected"},
      {one("U8", "[4]", "[]", 4), w + "has 0 data_offsets where 2 were expected"},
      {one("U8", "[4]", "[0,4,4]", 4), w + "has more than two data_offsets"},
      {one("U8", "[4]", "[0,-4]", 4), w + "has the number -4 in its data_offsets"},
      {one("U8", "[4]", "[0,4.0]", 4), w + "has the number 4.0 in its data_offsets"},
      // The data
      {one("U8", "[4]", "[4,0]", 4), w + "begins at 4, after its end at 0"},
      {one("U8", "[4]", "[0,4]", 3), w + "ends at byte 4 of the data, which has 3"},
      {one("U8", "[4]", "[0," + most + "]", 4), "of the data, which has 4"},
      {one("F32", "[2,1]", "[0,4]", 4), w + "F32 [2, 1] has 8 bytes, but its data_offsets span 4"},
      {one("BOOL", "[]", "[0,0]", 0), w + "BOOL [] has 1 bytes, but its data_offsets span 0"},
      {one("U8", "[0]", "[0,4]", 4), w + "U8 [0] has 0 bytes, but its data_offsets span 4"},
      {one("U8", "[4]", "[1,5]", 5), w + "begins at byte 1 of the data, leaving a hole"},
      {one("U8", "[4]", "[0,4]", 5), ": has 5 bytes of data, of which the last 1 belong to no"},
      {one("U8", "[0]", "[3,3]", 3), w + "begins at byte 3 of the data, leaving a hole"},
      {header("{}") + "x", ": has 1 bytes of data, of which the last 1 belong to no tensor"},
      {two("[0,4]", "[2,6]", 6), "\"b\": begins at byte 2 of the data, inside the tensor before"},
      {two("[0,4]", "[0,4]", 4), "begins at byte 0 of the data, inside the tensor before it"},
      {two("[0,4]", "[5,9]", 9), "\"b\": begins at byte 5 of the data, leaving a hole after"},
      {two("[5,9]", "[0,4]", 9), "\"a\": begins at byte 5 of the data, leaving a hole after"},
      {two("[0,4]", "[4,8]", 9), "has 9 bytes of data, of which the last 1 belong to no tensor"},
  };
  EXPECT_GE(std::size(cases), 40U);
  for (const auto& [file, message] : cases) {
    put(path, file);
    SCOPED_TRACE(file.substr(0, 200));
    expect_error([&] { SafetensorsFile{path}; }, ExitCode::kBadData, message);
    expect_error([&] { SafetensorsFile{path}; }, ExitCode::kBadData, path.string());
  }
}

TEST(Safetensors, MessagesStayShortAndPrintable) {
  const TemporaryDirectory directory;
  const std::string name = "\x1b[31m" + std::string(1'000'000, 'n');
  const std::string escaped = "\\u001b" + name.substr(1);
  put(directory / "x", file_of("{\"" + escaped + "\":1}", 0));
  try {
    const SafetensorsFile file(directory / "x");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find('\x1b'), std::string::npos);
    EXPECT_LT(std::strlen(error.what()), 500U);
  }
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const TemporaryDirectory directory;
  write_example(directory / "x");
  const SafetensorsFile whole(directory / "x");
  for (auto size = std::filesystem::file_size(whole.path()); size > 0;) {
    std::filesystem::resize_file(whole.path(), --size);
    EXPECT_THROW(SafetensorsFile{whole.path()}, Error) << size << " bytes";
  }
}

TEST(Safetensors, AFlippedBitOfTheHeaderIsRefusedOrChangesOnlyAName) {
  const TemporaryDirectory directory;
  write_example(directory / "x");
  const auto in_data_order = [](const SafetensorsFile& file) {
    std::map<std::pair<uint64_t, std::string>, std::vector<int64_t>> layout;
    for (const auto& [name, info] : file.tensors()) {
      // Of an empty tensor only that it is empty can be checked.
      layout[{info.offset, cat(info.dtype, " ", info.bytes)}] =
          info.bytes == 0 ? std::vector<int64_t>{} : info.shape;
    }
    return layout;
  };
  const auto expected = in_data_order(SafetensorsFile(directory / "x"));
  ASSERT_EQ(expected.size(), 5U);
  const std::string bytes = read_file(directory / "x");
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  std::fstream in_place(directory / "x", std::ios::in | std::ios::out | std::ios::binary);
  const auto write_byte = [&](size_t at, char byte) {
    in_place.seekp(static_cast<std::streamoff>(at)).put(byte).flush();
  };
  int accepted = 0;
  for (size_t bit = 0; bit < 8 * (8 + length); ++bit) {
    write_byte(bit / 8, static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8)));
    try {
      const SafetensorsFile file(directory / "x");
      EXPECT_EQ(in_data_order(file), expected) << "bit " << bit;
      ++accepted;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadData) << "bit " << bit << ": " << error.what();
    }
    write_byte(bit / 8, bytes[bit / 8]);
  }
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, static_cast<int>(8 * length / 4)) << "names are a small part of the header";
}

TEST(Safetensors, AFileCutAfterOpeningIsAnErrorNotACrash) {
  const TemporaryDirectory directory;
  write_example(directory / "x");
  const SafetensorsFile file(directory / "x");
  std::filesystem::resize_file(directory / "x", 400);
  std::string data(file.find("a.weight")->bytes, ' ');
  expect_error([&] { file.read(*file.find("a.weight"), data.data()); }, ExitCode::kBadData,
               "ends after");
}

TEST(Safetensors, TheWriterRefusesMisuse) {
  const TemporaryDirectory directory;
  const auto refused = [&](const std::vector<TensorInfo>& tensors, const std::string& why) {
    expect_error([&] { SafetensorsWriter(directory / "x", tensors); }, ExitCode::kInternal, why);
  };
  refused({{.name = "a", .dtype = "F31", .shape = {}}}, "unsupported dtype \"F31\"");
  refused({{.name = "a", .dtype = "U8", .shape = {-1}}}, "shape [-1]");
  refused({{.name = "a", .dtype = "U8", .shape = std::vector<int64_t>(9, 1)}}, "8 dimensions");
  refused({{.name = "a", .dtype = "F32", .shape = {int64_t{1} << 62}}}, "more bytes");
  refused({{.name = "a", .dtype = "U8", .shape = {}}, {.name = "a", .dtype = "U8", .shape = {}}},
          "in use");
  refused({{.name = "__metadata__", .dtype = "U8", .shape = {}}}, "in use");
  refused({{.name = "\xff", .dtype = "U8", .shape = {}}}, "not valid UTF-8");
  refused({{.name = "a", .dtype = "U8", .shape = {}}, {.name = "b", .dtype = "F32", .shape = {}}},
          "would begin at byte 1 of the data, not a multiple of 4: sort_for_alignment() first");

  SafetensorsWriter writer(directory / "x", {{.name = "a", .dtype = "U8", .shape = {2}},
                                             {.name = "b", .dtype = "U8", .shape = {1}}});
  expect_error([&] { writer.write("b", "x", 1); }, ExitCode::kInternal, "not \"b\" with 1");
  expect_error([&] { writer.write("a", "x", 1); }, ExitCode::kInternal, "with 2 bytes is next");
  writer.write("a", "xy", 2);
  expect_error([&] { writer.commit(); }, ExitCode::kInternal, "lacks tensor \"b\" and 0 more");
  writer.write("b", "z", 1);
  expect_error([&] { writer.write("c", "z", 1); }, ExitCode::kInternal, "has all tensors");
  writer.commit();
  EXPECT_EQ(SafetensorsFile(directory / "x").tensors().size(), 2U);
}

TEST(Safetensors, SortingAlignsEveryTensorAndKeepsTheOrderOtherwise) {
  const TemporaryDirectory directory;
  std::vector<TensorInfo> tensors = {{.name = "a", .dtype = "U8", .shape = {3}},
                                     {.name = "b", .dtype = "BF16", .shape = {3}},
                                     {.name = "c", .dtype = "I64", .shape = {}},
                                     {.name = "d", .dtype = "F16", .shape = {1}},
                                     {.name = "e", .dtype = "F32", .shape = {5}}};
  sort_for_alignment(tensors);
  std::string names;
  for (const auto& info : tensors) names += info.name;
  EXPECT_EQ(names, "cebda");
  SafetensorsWriter(directory / "x", tensors);
}

}  // namespace
}  // namespace kvsmith
