#include "core/npy.h"

#include <cstring>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "core/files.h"
#include "core/hash.h"
#include "core/text.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_directory.h"

namespace kvsmith {
namespace {

TEST(Npy, TheFileIsThatOfTheFormat) {
  const TemporaryDirectory directory;
  for (const auto& [rows, columns] :
       {std::pair{2, 3}, {1, 1}, {0, 5}, {5, 0}, {1000, 7}, {7, 123456}}) {
    std::vector<float> values(static_cast<size_t>(rows * columns));
    std::iota(values.begin(), values.end(), -1.5F);
    NpyWriter writer(directory / "a.npy", static_cast<uint64_t>(rows),
                     static_cast<uint64_t>(columns));
    const auto width = static_cast<size_t>(columns);
    for (size_t at = 0; at < values.size(); at += width) {
      writer.write(std::span(values).subspan(at, width));
    }
    const std::string hash = writer.commit();

    const std::string file = read_file(directory / "a.npy");
    EXPECT_EQ(hash, sha256(file));
    EXPECT_EQ(file.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8));
    const size_t length = static_cast<uint8_t>(file[8]) + 256U * static_cast<uint8_t>(file[9]);
    ASSERT_EQ((10 + length) % 64, 0U);
    ASSERT_EQ(file.size(), 10 + length + 4 * values.size());
    const std::string fields =
        cat("{'descr': '<f4', 'fortran_order': False, 'shape': (", rows, ", ", columns, "), }");
    EXPECT_EQ(file.substr(10, fields.size()), fields);
    EXPECT_EQ(file.find_first_not_of(' ', 10 + fields.size()), 10 + length - 1);
    EXPECT_EQ(file[10 + length - 1], '\n');
    std::vector<float> read(values.size());
    if (!read.empty()) std::memcpy(read.data(), &file[10 + length], 4 * read.size());
    EXPECT_EQ(read, values);
  }
}

TEST(Npy, NothingButAllRowsIsCommitted) {
  const TemporaryDirectory directory;
  const std::vector<float> six(6);
  NpyWriter writer(directory / "a.npy", 3, 2);
  expect_error([&] { writer.write(std::span(six).first(3)); }, ExitCode::kInternal, "3 values");
  writer.write(std::span(six).first(4));
  expect_error([&] { writer.commit(); }, ExitCode::kInternal, "2 values are missing");
  expect_error([&] { writer.write(six); }, ExitCode::kInternal, "more than the 2");
  EXPECT_FALSE(std::filesystem::exists(directory / "a.npy"));
}

}  // namespace
}  // namespace kvsmith
