#include "core/files.h"

#include <chrono>
#include <cstdio>
#include <set>
#include <string>

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "core/hash.h"
#include "core/text.h"
#include "tests/core/sample_directory.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_directory.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

TEST(Files, WhatIsWrittenIsRead) {
  const TemporaryDirectory directory;
  for (const size_t size : {0, 1, 4096, 1'000'003}) {
    const std::string content(size, 'k');
    write_file(directory / "file", content);
    EXPECT_EQ(read_file(directory / "file"), content);
  }
  EXPECT_EQ(directory.names(), std::set<std::string>{"file"});
}

TEST(Files, PiecesAreHashedAndAppearOnlyAtCommit) {
  const TemporaryDirectory directory;
  write_file(directory / "file", "old");
  AtomicFile file(directory / "file");
  file.write("ne");
  file.write("w");
  EXPECT_EQ(read_file(directory / "file"), "old");
  EXPECT_EQ(file.temporary().filename().string()[0], '.');
  EXPECT_EQ(file.commit(), sha256("new"));
  EXPECT_EQ(read_file(directory / "file"), "new");
  expect_error([&] { file.write("more"); }, ExitCode::kInternal, "after commit");
  expect_error([&] { file.commit(); }, ExitCode::kInternal, "after commit");
}

TEST(Files, ALibraryMayFillOrReplaceTheTemporaryFile) {
  const TemporaryDirectory directory;
  for (const bool replace : {false, true}) {
    AtomicFile file(directory / "file");
    if (replace) fs::remove(file.temporary());
    std::FILE* const library = std::fopen(file.temporary().c_str(), "w");
    std::fputs("by a library", library);
    std::fclose(library);
    EXPECT_EQ(file.commit(), sha256("by a library"));
    EXPECT_EQ(read_file(directory / "file"), "by a library");
  }
}

TEST(Files, WithoutCommitNothingStays) {
  const TemporaryDirectory directory;
  {
    AtomicFile file(directory / "file");
    file.write("half");
    AtomicDirectory tree(directory / "tree");
    write_file(tree.path() / "a", "half");
    EXPECT_EQ(directory.names().size(), 2U);
  }
  EXPECT_TRUE(fs::is_empty(directory.path()));
}

TEST(Files, PublishedFilesMoveToTheirName) {
  const TemporaryDirectory directory;
  write_file(directory / "from", "content");
  publish_file(directory / "from", directory / "to");
  EXPECT_EQ(directory.names(), std::set<std::string>{"to"});
  expect_error([&] { publish_file(directory / "from", directory / "to"); }, ExitCode::kIo, "from");
}

TEST(Files, ReadingSaysWhatIsWrong) {
  const TemporaryDirectory directory;
  write_file(directory / "file", "12345");
  ASSERT_EQ(::mkfifo((directory / "pipe").c_str(), 0600), 0);
  expect_error([&] { read_file(directory / "none"); }, ExitCode::kMissingInput, "none: no such");
  expect_error([&] { read_file(directory / "file/x"); }, ExitCode::kMissingInput, "file/x");
  expect_error([&] { read_file(directory / "file", 4); }, ExitCode::kBadData, "4 bytes");
  expect_error([&] { read_file(directory.path()); }, ExitCode::kBadData, "not a regular file");
  expect_error([&] { read_file(directory / "pipe"); }, ExitCode::kBadData, "not a regular file");
  EXPECT_EQ(read_file(directory / "file", 5), "12345");
  EXPECT_NE(read_file("/proc/self/status").find("VmRSS"), std::string::npos);
}

TEST(Files, InputFilesGiveAnyRange) {
  const TemporaryDirectory directory;
  write_file(directory / "file", "0123456789");
  const InputFile file(directory / "file");
  std::string four(4, ' ');
  file.read(3, four.data(), 4);
  EXPECT_EQ(four, "3456");
  EXPECT_EQ(file.read_some(8, four.data(), 4), 2U);
  expect_error([&] { file.read(8, four.data(), 4); }, ExitCode::kBadData,
               "ends after 10 bytes where 4 bytes were expected from byte 8 on");
}

TEST(Files, OutputGoesToNothingButFilesAndDirectories) {
  const TemporaryDirectory directory;
  write_file(directory / "file", "precious");
  fs::create_directory(directory / "tree");
  fs::create_symlink(directory / "file", directory / "link");
  fs::create_symlink(directory / "tree", directory / "tree link");
  fs::create_symlink(directory / "nowhere", directory / "dangling");
  // Not a device of the machine: when this test fails, what it names may be gone.
  ASSERT_EQ(::mkfifo((directory / "pipe").c_str(), 0600), 0);
  const auto refused = [](const auto& call, const std::string& why) {
    expect_error(call, ExitCode::kCannotCreate, why);
  };
  refused([&] { write_file(directory / "link", "x"); }, "is a symbolic link");
  refused([&] { write_file(directory / "dangling", "x"); }, "is a symbolic link");
  refused([&] { write_file(directory / "tree", "x"); }, "is a directory");
  refused([&] { write_file(directory / "pipe", "x"); }, "is a device, pipe or socket");
  refused([&] { write_file(directory / "none/file", "x"); }, "not there");
  refused([&] { write_file(directory / "file/file", "x"); }, "Not a directory");
  refused([&] { write_file(directory / std::string(255, 'n'), "x"); }, "too long");
  refused([&] { write_file(directory / "..", "x"); }, "..");
  refused([&] { AtomicDirectory(directory / "file"); }, "is a regular file, not a directory");
  refused([&] { AtomicDirectory(directory / "tree link"); }, "is a symbolic link");
  refused([&] { AppendFile(directory / "link"); }, "link");
  refused([&] { publish_file(directory / "file", directory / "link"); }, "is a symbolic link");
  EXPECT_EQ(read_file(directory / "file"), "precious");

  AtomicDirectory tree(directory / "new");
  fs::create_symlink(directory / "file", tree.path() / "link");
  refused([&] { tree.commit(); }, "link");
  EXPECT_FALSE(fs::exists(directory / "new"));
}

TEST(Files, ADirectoryLinkPlantedBeforeCommitIsRefused) {
  const TemporaryDirectory directory;
  fs::create_directory(directory / "elsewhere");
  AtomicDirectory tree(directory / "tree");
  fs::create_symlink(directory / "elsewhere", directory / "tree");
  expect_error([&] { tree.commit(); }, ExitCode::kCannotCreate, "is a symbolic link");
  EXPECT_TRUE(fs::is_empty(directory / "elsewhere"));
}

TEST(Files, DirectoriesReplaceEachOther) {
  const TemporaryDirectory directory;
  make_directory(directory / "tree", "1");
  make_directory(directory.path() / "tree/", "2");
  EXPECT_EQ(content_of(directory / "tree"), "2");
  fs::create_directory(directory / "empty");
  make_directory(directory / "empty", "3");
  EXPECT_EQ(content_of(directory / "empty"), "3");
  EXPECT_EQ(directory.names(), (std::set<std::string>{"empty", "tree"}));
}

TEST(Files, SweepingKeepsWhatIsAliveOrNotOurs) {
  const TemporaryDirectory directory;
  const std::set<std::string> foreign = {".hidden",     ".file.tmp",       ".file.tmp-1-2",
                                         "x.tmp-1-2-3", ".file.new-1-2-3", ".file.tmp-1-2-3-4x",
                                         "file"};
  for (const auto& name : foreign) write_file(directory / name, name);
  // Process 1 lives, but did not start at tick 99999999999; nobody has the second number.
  for (const auto* name : {".file.tmp-1-99999999999-3", ".file.old-4194999-7-18446744073709551615",
                           "....tmp-1-2-3", "....old-1-2-3"}) {
    write_file(directory / name, "left over");
  }
  fs::create_directory(directory / ".tree.tmp-1-99999999999-3");
  write_file(directory / ".tree.tmp-1-99999999999-3/a", "left over");
  fs::last_write_time(directory / ".file.tmp-1-99999999999-3",
                      fs::file_time_type::clock::now() + std::chrono::hours(1));
  AtomicFile alive(directory / "alive");
  sweep_temporaries(directory.path());
  std::set<std::string> left = directory.names();
  EXPECT_EQ(left.erase(alive.temporary().filename()), 1U);
  EXPECT_EQ(left, foreign);
  alive.commit();
  sweep_temporaries(directory / "none");
}

TEST(Files, AnOldDirectoryComesBackWhenTheNewOneNeverArrived) {
  const TemporaryDirectory directory;
  make_directory(directory / "tree", "old");
  fs::rename(directory / "tree", directory / ".tree.old-1-99999999999-3");
  sweep_temporaries(directory.path());
  EXPECT_EQ(content_of(directory / "tree"), "old");
}

TEST(Files, ExpectWritableRefusesBeforeTheWork) {
  const TemporaryDirectory directory;
  write_file(directory / "file", "x");
  expect_error([&] { expect_writable(directory / "file", false); }, ExitCode::kCannotCreate,
               "exists already; pass --force");
  expect_error([&] { expect_writable(directory / "none/file", true); }, ExitCode::kCannotCreate,
               "create it first");
  expect_writable(directory / "file", true);
  expect_writable(directory / "new", false);
  EXPECT_EQ(directory.names(), std::set<std::string>{"file"});
}

TEST(Files, ExpectWritableClearsAwayWhatAKilledAttemptAtTheSameFileLeft) {
  const TemporaryDirectory directory;
  const std::set<std::string> others = {".file.tmp-1-99999999999-4", ".other.tmp-1-99999999999-3"};
  write_file(directory / ".file.tmp-1-99999999999-3", "left over");
  for (const auto& name : others) write_file(directory / name, "of another");
  const auto long_ago = fs::file_time_type::clock::now() - std::chrono::hours(2);
  for (const auto* name : {".file.tmp-1-99999999999-3", ".other.tmp-1-99999999999-3"})
    fs::last_write_time(directory / name, long_ago);
  expect_writable(directory / "file", false);
  EXPECT_EQ(directory.names(), others) << "one is of another file, one may be of another container";
}

TEST(Files, ParentsAreMadeButNotThePathItself) {
  const TemporaryDirectory directory;
  for (const char* path : {"a/b/c", "d/e/", "f"}) create_parents(directory / path);
  EXPECT_TRUE(fs::is_directory(directory / "a" / "b"));
  EXPECT_EQ(directory.names(), (std::set<std::string>{"a", "d"}));
  EXPECT_TRUE(fs::is_empty(directory / "a" / "b") && fs::is_empty(directory / "d"));
  create_parents("relative");
  write_file(directory / "file", "");
  expect_error([&] { create_parents(directory / "file" / "x"); }, ExitCode::kCannotCreate, "file");
}

TEST(Files, FreeBytesAreThoseOfTheNearestParent) {
  const TemporaryDirectory directory;
  EXPECT_GT(free_bytes(directory.path()), 0U);
  EXPECT_GT(free_bytes(directory / "not/there/yet"), 0U);
  EXPECT_EQ(free_bytes("/proc/self"), 0U);
}

}  // namespace
}  // namespace kvsmith
