#include "cri/files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <pintle/buffer.hpp>
#include <system_error>

namespace pintle::cri {

Status make_folder(const std::string& path, unsigned mode) {
  for (size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    const std::string part = path.substr(0, slash);
    if (::mkdir(part.c_str(), mode) != 0 && errno != EEXIST) return status_from_errno(errno, "make folder " + part);
    if (slash == std::string::npos) return Status::ok();
  }
}

Status write_file(const std::string& path, std::string_view text, unsigned mode) {
  const std::string aside = path + ".new";
  const auto fail = [&](int error) {
    ::unlink(aside.c_str());
    return status_from_errno(error, "write " + path);
  };
  UniqueFd file(::open(aside.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode));
  if (!file) return fail(errno);
  for (size_t done = 0; done < text.size();) {
    const ssize_t put = ::write(file.get(), text.data() + done, text.size() - done);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return fail(errno);
    done += static_cast<size_t>(put);
  }
  // The mode is part of the contract with containers; the process' umask is not.
  if (::fchmod(file.get(), mode) != 0) return fail(errno);
  if (::rename(aside.c_str(), path.c_str()) != 0) return fail(errno);
  return Status::ok();
}

Result<std::string> read_file(const std::string& path, size_t limit) {
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return status_from_errno(errno, "read " + path);
  std::string text;
  char block[4096];
  for (;;) {
    const ssize_t got = ::read(file.get(), block, sizeof block);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return status_from_errno(errno, "read " + path);
    if (got == 0) return text;
    text.append(block, static_cast<size_t>(got));
    if (text.size() > limit)
      return Status(Code::out_of_range, "read " + path + ": more than " + std::to_string(limit) + " bytes");
  }
}

Status remove_tree(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  return error ? status_from_errno(error.value(), "remove " + path) : Status::ok();
}

}  // namespace pintle::cri
