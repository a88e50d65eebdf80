#include <unistd.h>

#include <cstdlib>

#include "cni/executable/command.hpp"
#include "sdk/support/files/files.hpp"

namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

}  // namespace

int main() {
  constexpr size_t kLargestInput = 2 << 20;
  pintle::Result<std::string> input =
      isatty(STDIN_FILENO) ? std::string() : pintle::files::read_all(STDIN_FILENO, kLargestInput);
  const pintle::cni::executable::Answer answer =
      pintle::cni::executable::run({.command = variable("CNI_COMMAND"),
                                    .container = variable("CNI_CONTAINERID"),
                                    .name_space = variable("CNI_NETNS"),
                                    .interface = variable("CNI_IFNAME"),
                                    .arguments = variable("CNI_ARGS"),
                                    .input = input ? std::move(*input) : std::string()});
  const bool told = pintle::files::write_all(STDOUT_FILENO, answer.output).is_ok();
  return told ? answer.exit_code : 1;
}
