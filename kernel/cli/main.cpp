#include <iostream>

#include "kernel/cli/cli.hpp"

int main(int argc, char** argv) {
  pintle::cli::Context context(std::cout, std::cerr);
  pintle::cli::read_environment(context);
  return pintle::cli::run(context, {argv + 1, argv + argc});
}
