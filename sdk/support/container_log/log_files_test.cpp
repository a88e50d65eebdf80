#include "sdk/support/container_log/log_files.hpp"

#include <gtest/gtest.h>
#include <zlib.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace pintle::container_log {
namespace {

namespace fs = std::filesystem;

class LogFilesTest : public testing::Test {
 protected:
  ~LogFilesTest() override { fs::remove_all(folder); }

  /// Lines "a".."b" of numbers, each with its own second of the time.
  static std::string lines(int first, int last) {
    std::string text;
    for (int i = first; i <= last; ++i) {
      char line[64];
      std::snprintf(line, sizeof line, "2026-01-01T00:%02d:%02dZ stdout F %d\n", i / 60, i % 60, i);
      text += line;
    }
    return text;
  }
  static std::string time_of(int line) { return lines(line, line).substr(0, 20); }
  void append(const std::string& name, const std::string& text) const {
    std::ofstream(folder + "/" + name, std::ios::app) << text;
  }
  /// As the agent rotates: to a name with a stamp.
  void rotate(const std::string& stamp) const { fs::rename(path, path + "." + stamp); }
  /// As the agent compresses: aside, then under its name, then the original goes.
  void compress(const std::string& stamp) const {
    const std::string name = path + "." + stamp;
    std::ifstream from(name);
    const std::string text((std::istreambuf_iterator<char>(from)), {});
    const gzFile to = gzopen((name + ".tmp").c_str(), "wb");
    gzwrite(to, text.data(), static_cast<unsigned>(text.size()));
    gzclose(to);
    fs::rename(name + ".tmp", name + ".gz");
    fs::remove(name);
  }
  static std::vector<int> rest(LogFiles& log) {
    std::vector<int> numbers;
    for (;;) {
      const Result<bool> more = log.read([&](std::string_view line) {
        LogRecord record;
        numbers.push_back(parse_log_line(line, record) ? std::stoi(std::string(record.text)) : -1);
      });
      EXPECT_TRUE(more) << more.status().message();
      if (!more || !*more) return numbers;
    }
  }
  std::vector<int> read(const LogFiles::From& from) const {
    LogFiles log(path);
    const Status opened = log.open(from);
    EXPECT_TRUE(opened) << opened.message();
    return rest(log);
  }
  static std::vector<int> numbers(int first, int last) {
    std::vector<int> all;
    for (int i = first; i <= last; ++i) all.push_back(i);
    return all;
  }
  /// 1 to 100 compressed, 101 to 200 rotated, 201 to 210 current.
  void make_three() const {
    append("0.log", lines(1, 100));
    rotate("20260101-000100-000");
    append("0.log", lines(101, 200));
    rotate("20260101-000200-000");
    compress("20260101-000100-000");
    append("0.log", lines(201, 210));
  }

  const std::string folder = [] {
    const std::string made = testing::TempDir() + "/log-files-" + files::random_hex(8);
    fs::create_directories(made);
    return made;
  }();
  const std::string path = folder + "/0.log";
};

TEST_F(LogFilesTest, ReadsRotatedAndCompressedFilesInTheirOrder) {
  make_three();
  append("0.log.20260101-000300-000.tmp", lines(900, 910));  // of an interruption
  append("0.log.old", lines(900, 910));
  append("00.log", lines(900, 910));
  EXPECT_EQ(read({}), numbers(1, 210));
}

TEST_F(LogFilesTest, ATailGoesBackAsFarAsItNeeds) {
  make_three();
  for (const int count : {0, 1, 9, 10, 11, 109, 110, 111, 150, 209, 210, 500}) {
    LogFiles::From from;
    from.tail_lines = static_cast<uint64_t>(count);
    EXPECT_EQ(read(from), numbers(std::max(1, 211 - count), 210)) << count;
  }
}

TEST_F(LogFilesTest, OpensNoFileThatHoldsOnlyOlderRecords) {
  make_three();
  const auto begin = [&](int line) {
    LogFiles::From from;
    from.is_too_old = [limit = time_of(line)](std::string_view time) { return time < limit; };
    return read(from);
  };
  EXPECT_EQ(begin(205), numbers(201, 210));
  EXPECT_EQ(begin(201), numbers(101, 210)) << "the record before may be of the same time";
  EXPECT_EQ(begin(150), numbers(101, 210));
  EXPECT_EQ(begin(50), numbers(1, 210));
}

TEST_F(LogFilesTest, FollowsOverSeveralRotationsAndCompressionWithoutLossOrDoubling) {
  append("0.log", lines(1, 10));
  LogFiles log(path);
  ASSERT_TRUE(log.open({}));
  EXPECT_EQ(rest(log), numbers(1, 10));
  // Three rotations between two readings; what was read is compressed meanwhile.
  append("0.log", lines(11, 12));
  rotate("20260101-000001-000");
  append("0.log", lines(13, 20));
  rotate("20260101-000002-000");
  compress("20260101-000001-000");
  append("0.log", lines(21, 30));
  rotate("20260101-000003-000");
  compress("20260101-000002-000");
  append("0.log", lines(31, 40));
  EXPECT_EQ(rest(log), numbers(11, 40));
  // What was read is removed altogether.
  rotate("20260101-000004-000");
  append("0.log", lines(41, 50));
  fs::remove(path + ".20260101-000004-000");
  EXPECT_EQ(rest(log), numbers(41, 50));
}

TEST_F(LogFilesTest, WhatIsWrittenIntoARenamedFileIsReadBeforeTheNextOne) {
  append("0.log", lines(1, 10));
  LogFiles log(path);
  ASSERT_TRUE(log.open({}));
  EXPECT_EQ(rest(log), numbers(1, 10));
  rotate("20260101-000001-000");
  EXPECT_EQ(rest(log), numbers(1, 0));
  append("0.log.20260101-000001-000", lines(11, 12));
  append("0.log", lines(13, 14));
  EXPECT_EQ(rest(log), numbers(11, 14));
  // The rotation that was taken back.
  rotate("20260101-000002-000");
  fs::rename(path + ".20260101-000002-000", path);
  append("0.log", lines(15, 15));
  EXPECT_EQ(rest(log), numbers(15, 15));
}

TEST_F(LogFilesTest, ARotationBetweenSeeingTheEndAndSeeingTheNextFileLosesNothing) {
  append("0.log", lines(1, 10));
  LogFiles log(path);
  ASSERT_TRUE(log.open({}));
  bool rotated = false;
  std::vector<int> seen;
  // The writer goes on in the renamed file after the reader has had its bytes, and before the new one is there.
  for (;;) {
    const Result<bool> more = log.read([&](std::string_view line) {
      seen.push_back(std::stoi(std::string(line.substr(line.rfind(' ') + 1))));
      if (seen.size() == 10 && !std::exchange(rotated, true)) {
        rotate("20260101-000001-000");
        append("0.log.20260101-000001-000", lines(11, 12));
        append("0.log", lines(13, 14));
      }
    });
    ASSERT_TRUE(more);
    if (!*more) break;
  }
  EXPECT_EQ(seen, numbers(1, 14));
}

TEST_F(LogFilesTest, ALogThatWasRemovedByHandIsNotReadAgain) {
  make_three();
  LogFiles log(path);
  LogFiles::From from;
  from.tail_lines = 5;
  ASSERT_TRUE(log.open(from));
  EXPECT_EQ(rest(log), numbers(206, 210));
  fs::remove(path);
  EXPECT_EQ(rest(log), numbers(1, 0));
  append("0.log", lines(211, 212));
  EXPECT_EQ(rest(log), numbers(211, 212));
}

TEST_F(LogFilesTest, ADamagedCompressedFileIsReadAsFarAsItGoes) {
  make_three();
  fs::resize_file(path + ".20260101-000100-000.gz", 5);
  EXPECT_EQ(read({}), numbers(101, 210));
}

TEST_F(LogFilesTest, ALogThatGoesWithItsFolderHasItsEnd) {
  append("0.log", lines(1, 10));
  LogFiles log(path);
  ASSERT_TRUE(log.open({}));
  fs::remove_all(folder);
  EXPECT_EQ(rest(log), numbers(1, 10));
}

TEST_F(LogFilesTest, SaysThatThereIsNoLog) {
  LogFiles log(path);
  EXPECT_EQ(log.open({}).code(), Code::not_found);
}

}  // namespace
}  // namespace pintle::container_log
