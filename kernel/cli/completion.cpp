#include "kernel/cli/completion.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <set>

#include "kernel/cli/cli.hpp"
#include "kernel/cli/pods.hpp"

namespace pintle::cli {

namespace {

constexpr std::string_view bash_script = R"(# bash completion of pintle; load it with: source <(pintle completion bash)
_pintle() {
  local line word candidate current words
  # Split at blanks only: bash itself also splits at ":", which stands in image names.
  read -ra words <<<"${COMP_LINE:0:COMP_POINT}"
  [[ "${COMP_LINE:0:COMP_POINT}" == *[[:space:]] ]] && words+=("")
  current="${words[${#words[@]}-1]}"
  COMPREPLY=()
  while IFS= read -r line; do
    word="${line%%$'\t'*}"
    if [[ "$word" == ":files" ]]; then
      compopt -o default
      COMPREPLY=()
      return
    fi
    candidate="$word"
    [[ "$current" == *:* ]] && candidate="${word#"${current%:*}:"}"
    COMPREPLY+=("$candidate")
  done < <("${words[0]}" __complete "${words[@]:1}" 2>/dev/null)
}
complete -F _pintle pintle
)";

constexpr std::string_view zsh_script = R"(#compdef pintle
# zsh completion of pintle; put it into a folder of $fpath as _pintle, or load it with: source <(pintle completion zsh)
_pintle() {
  local -a candidates
  local line word
  for line in "${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
    word="${line%%$'\t'*}"
    if [[ "$word" == ":files" ]]; then
      _files
      return
    fi
    [[ -z "$word" ]] && continue
    word="${word//:/\\:}"
    if [[ "$line" == *$'\t'* ]]; then
      candidates+=("$word:${line#*$'\t'}")
    else
      candidates+=("$word")
    fi
  done
  _describe 'pintle' candidates
}
if [[ "${funcstack[1]}" == "_pintle" ]]; then
  _pintle "$@"
else
  compdef _pintle pintle
fi
)";

constexpr std::string_view fish_script = R"(# fish completion of pintle; load it with: pintle completion fish | source
function __pintle_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l answer ($words[1] __complete $words[2..-1] 2>/dev/null)
    if test "$answer[1]" = ":files"
        __fish_complete_path (commandline -ct)
    else
        printf '%s\n' $answer
    end
end
complete -c pintle -f -a '(__pintle_complete)'
)";

const std::vector<std::pair<std::string, std::string_view>> scripts = {
    {"bash", bash_script}, {"zsh", zsh_script}, {"fish", fish_script}};

std::vector<const CLI::App*> commands_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App* sub) { return !sub->get_group().empty(); });
}

// The options of a command and, as they fall through, of those above it.
std::vector<const CLI::Option*> options_of(const CLI::App& app) {
  std::vector<const CLI::Option*> options;
  for (const CLI::App* level = &app; level != nullptr; level = level->get_parent()) {
    for (const CLI::Option* option :
         level->get_options([](const CLI::Option* one) { return !one->get_positional(); })) {
      options.push_back(option);
    }
  }
  return options;
}

const CLI::Option* find_option(const CLI::App& app, const std::string& word) {
  const std::string name = word.substr(0, word.find('='));
  for (const CLI::Option* option : options_of(app)) {
    for (const std::string& known : option->get_lnames()) {
      if (name == "--" + known) return option;
    }
    for (const std::string& known : option->get_snames()) {
      if (name == "-" + known) return option;
    }
  }
  return nullptr;
}

bool takes_value(const CLI::Option& option) { return option.get_items_expected_max() > 0; }

std::vector<Candidate> words_of(std::initializer_list<const char*> words) {
  std::vector<Candidate> candidates;
  for (const char* word : words) candidates.push_back({word, {}});
  return candidates;
}

std::vector<Candidate> plugins(Context& context) {
  std::vector<Candidate> candidates;
  if (auto status = context.admin().json("GET", "/v1/status", "", std::chrono::seconds(2))) {
    for (const auto& plugin : list_member(*status, "plugins")) {
      const bool retiring = text_member(plugin, "state") == "retiring";
      candidates.push_back({text_member(plugin, retiring ? "key" : "name"), text_member(plugin, "state")});
    }
  }
  return candidates;
}

std::vector<Candidate> values(const std::string& type, Context& context, const std::vector<std::string>& before) {
  if (type == "FORMAT") return words_of({"table", "wide", "json", "yaml"});
  if (type == "LEVEL") return words_of({"trace", "debug", "info", "warn", "error"});
  if (type == "SHELL") return words_of({"bash", "zsh", "fish"});
  if (type == "PLUGIN") return plugins(context);
  if (type == "PROFILE") {
    std::vector<Candidate> candidates;
    for (const ProfileListing& profile : list_profiles(context.profiles))
      candidates.push_back({profile.name, profile.description});
    return candidates;
  }
  std::vector<Candidate> candidates;
  if (type == "POD") {
    for (const auto& [name, phase] : pod_names(context)) candidates.push_back({name, phase});
    return candidates;
  }
  if (type == "CONTAINER") {
    for (const std::string& word : before) {
      for (const std::string& name : container_names(context, word)) candidates.push_back({name, ""});
      if (!candidates.empty()) break;
    }
    return candidates;
  }
  if (type == "IMAGE") {
    for (const std::string& name : image_names(context)) candidates.push_back({name, ""});
    return candidates;
  }
  if (type == "LANGUAGE") return words_of({"c++", "c"});
  if (type == "FILE" || type == "DIR") return words_of({":files"});
  return {};
}

std::string option_name(const CLI::Option& option) {
  return !option.get_lnames().empty() ? "--" + option.get_lnames()[0] : "-" + option.get_snames()[0];
}

}  // namespace

std::vector<Candidate> complete(const CLI::App& app, Context& context, const std::vector<std::string>& words) {
  const std::string current = words.empty() ? "" : words.back();
  const CLI::App* at = &app;
  const CLI::Option* waiting = nullptr;  // an option whose value comes next
  std::vector<std::string> positionals;
  bool only_positionals = false;
  for (size_t i = 0; i + 1 < words.size(); ++i) {
    const std::string& word = words[i];
    if (waiting != nullptr) {
      // Needed to ask the right daemon.
      if (option_name(*waiting) == "--socket") context.socket = word;
      waiting = nullptr;
    } else if (only_positionals) {
      positionals.push_back(word);
    } else if (word == "--") {
      only_positionals = true;
    } else if (word.starts_with('-') && word.size() > 1) {
      const CLI::Option* option = find_option(*at, word);
      if (option != nullptr && takes_value(*option) && word.find('=') == std::string::npos) waiting = option;
    } else {
      const auto subs = commands_of(*at);
      const auto sub =
          std::find_if(subs.begin(), subs.end(), [&](const CLI::App* one) { return one->get_name() == word; });
      if (sub != subs.end()) {
        at = *sub;
      } else {
        positionals.push_back(word);
      }
    }
  }

  std::vector<Candidate> candidates;
  const size_t equals = current.find('=');
  if (waiting != nullptr) {
    candidates = values(waiting->get_type_name(), context, positionals);
  } else if (!only_positionals && current.starts_with("--") && equals != std::string::npos) {
    if (const CLI::Option* option = find_option(*at, current)) {
      for (Candidate& value : values(option->get_type_name(), context, positionals)) {
        candidates.push_back({current.substr(0, equals + 1) + value.word, value.description});
      }
    }
  } else if (!only_positionals && current.starts_with('-')) {
    std::set<std::string> seen;
    for (const CLI::Option* option : options_of(*at)) {
      if (option->get_group().empty() || !seen.insert(option_name(*option)).second) continue;
      candidates.push_back({option_name(*option), option->get_description()});
    }
  } else {
    for (const CLI::App* sub : commands_of(*at)) candidates.push_back({sub->get_name(), sub->get_description()});
    size_t index = 0;
    for (const CLI::Option* positional :
         at->get_options([](const CLI::Option* one) { return one->get_positional(); })) {
      const auto most = static_cast<size_t>(positional->get_items_expected_max());
      if (positionals.size() < index + most) {
        for (Candidate& value : values(positional->get_type_name(), context, positionals))
          candidates.push_back(std::move(value));
        break;
      }
      index += most;
    }
  }

  const bool to_shell = candidates.size() == 1 && candidates[0].word == ":files";
  if (!to_shell)
    std::erase_if(candidates, [&](const Candidate& candidate) { return !candidate.word.starts_with(current); });
  for (Candidate& candidate : candidates) {
    candidate.word = one_line(candidate.word);
    candidate.description = one_line(candidate.description);
  }
  return candidates;
}

namespace {

struct CompletionOptions {
  std::string shell;
};

int print_script(Context& context, const CompletionOptions& options) {
  for (const auto& [shell, script] : scripts) {
    if (shell == options.shell) context.out << script;
  }
  return exit_ok;
}

}  // namespace

void add_completion(CLI::App& app, Context& context) {
  command<CompletionOptions>(
      app, context, "completion", "Print the script that completes pintle's commands in a shell",
      [](CLI::App& sub, CompletionOptions& options) {
        sub.add_option("shell", options.shell, "bash, zsh or fish")
            ->required()
            ->type_name("SHELL")
            ->check(CLI::IsMember({"bash", "zsh", "fish"}).description(""));
        sub.footer(
            "  source <(pintle completion bash)\n  source <(pintle completion zsh)\n  pintle completion fish | source");
      },
      print_script);
}

}  // namespace pintle::cli
