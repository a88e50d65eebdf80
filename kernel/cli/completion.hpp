#pragma once

/// Completion of half-written command lines, from the CLI11 application itself.
///
/// The shells' scripts (`pintle completion bash|zsh|fish`) hold no words: at every Tab they ask `pintle __complete WORD...`, whose last
/// word is the one being written, and get one candidate a line, a description after a tab. Commands and options come from the
/// application; values by the type name of the option or positional: PLUGIN, POD, CONTAINER, PROFILE, IMAGE, LEVEL, FORMAT, LANGUAGE and SHELL
/// are asked of the daemon, the profile folders or are known; FILE, DIR and what is not known are left to the shell, which is told
/// so by the candidate ":files".

#include <CLI/App.hpp>
#include <string>
#include <vector>

namespace pintle::cli {

struct Context;

struct Candidate {
  std::string word;
  std::string description;
};

/// Candidates for the last of `words` (without the program's name). A daemon that is not there gives none and no error.
std::vector<Candidate> complete(const CLI::App& app, Context& context, const std::vector<std::string>& words);

}  // namespace pintle::cli
