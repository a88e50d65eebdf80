#include "sdk/support/process/own_program.hpp"

#include <unistd.h>

#include <climits>

namespace pintle::process {

std::string own_program() {
  char path[PATH_MAX] = {};
  const ssize_t size = readlink("/proc/self/exe", path, sizeof path - 1);
  std::string_view out(path, size > 0 ? static_cast<size_t>(size) : 0);
  constexpr std::string_view deleted = " (deleted)";
  if (out.ends_with(deleted)) out.remove_suffix(deleted.size());
  return std::string(out);
}

std::string installed_beside(std::string_view path) {
  std::string prefix = own_program();
  for (int up = 0; up < 2; ++up) prefix.resize(prefix.find_last_of('/') == std::string::npos ? 0 : prefix.rfind('/'));
  std::string beside = prefix + "/" + std::string(path);
  return access(beside.c_str(), F_OK) == 0 ? beside : "/usr/" + std::string(path);
}

}  // namespace pintle::process
