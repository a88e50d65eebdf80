// pintle profile: what the node shall be. Everything but `apply` and the node's side of `diff` works on files alone.

#include <CLI/CLI.hpp>
#include <boost/json.hpp>

#include "kernel/cli/cli.hpp"

namespace pintle::cli {

namespace json = boost::json;

namespace {

struct ProfileOptions {
  std::string name;
  std::vector<std::string> names;
  bool plan = false;
  bool dry_run = false;
};

json::array to_json(const std::vector<std::string>& texts) { return json::array(texts.begin(), texts.end()); }

std::string joined(const std::vector<std::string>& texts, const char* between = ", ") {
  std::string list;
  for (const std::string& text : texts) list += (list.empty() ? "" : between) + text;
  return list;
}

int list(Context& context, const NoOptions&) {
  const std::vector<ProfileListing> profiles = list_profiles(context.profiles);
  json::array all;
  Table table({{"NAME"}, {"EXTENDS"}, {"RUNS"}, {"PATH", true}, {"DESCRIPTION"}});
  for (const ProfileListing& profile : profiles) {
    all.push_back({{"name", profile.name},
                   {"path", profile.path},
                   {"extends", to_json(profile.extends)},
                   {"description", profile.description},
                   {"awaits", to_json(profile.awaits)},
                   {"problem", profile.problem}});
    const bool broken = !profile.problem.empty(), waiting = !profile.awaits.empty();
    table.add({profile.name,
               joined(profile.extends),
               {broken    ? "broken"
                : waiting ? "not yet"
                          : "yes",
                broken    ? Color::red
                : waiting ? Color::yellow
                          : Color::green},
               profile.path,
               broken    ? profile.problem
               : waiting ? "awaits " + joined(profile.awaits, "; ")
                         : profile.description});
  }
  if (context.printed({{"profiles", all}})) return exit_ok;
  if (profiles.empty()) {
    return context.fail(not_found("there are no profiles in " + joined(context.profiles.profile_folders)));
  }
  table.print(context.out, context.format == Format::wide, context.color);
  return exit_ok;
}

const char* isolation_name(Isolation isolation) {
  return isolation == Isolation::process ? "process" : isolation == Isolation::in_process ? "in-process" : "automatic";
}

json::value plan_json(const NodePlan& plan) {
  json::array instances;
  for (const PlannedInstance& instance : plan.instances) {
    boost::system::error_code error;
    json::object bindings;
    for (const auto& [need, target] : instance.bindings) bindings.emplace(need, target);
    instances.push_back({{"name", instance.name},
                         {"plugin", instance.plugin},
                         {"path", instance.path},
                         {"config", json::parse(instance.config.empty() ? "{}" : instance.config, error)},
                         {"isolation", isolation_name(instance.isolation)},
                         {"enabled", instance.enabled},
                         {"required", instance.required},
                         {"allow_unsigned", instance.allow_unsigned},
                         {"grants", to_json(instance.grants)},
                         {"bindings", bindings},
                         {"log_level", instance.log_level}});
  }
  return {{"profile", plan.profile}, {"node", plan.node}, {"instances", instances}};
}

// The plan as the daemon tells it (GET /v1/profile).
NodePlan plan_of_json(const json::value& value) {
  NodePlan plan;
  plan.profile = text_member(value, "profile");
  plan.node = text_member(value, "node");
  for (const json::value& one : list_member(value, "instances")) {
    PlannedInstance instance;
    instance.name = text_member(one, "name");
    instance.plugin = text_member(one, "plugin");
    instance.path = text_member(one, "path");
    instance.config = json::serialize(member(one, "config"));
    const std::string isolation = text_member(one, "isolation");
    instance.isolation = isolation == "process"      ? Isolation::process
                         : isolation == "in-process" ? Isolation::in_process
                                                     : Isolation::automatic;
    instance.enabled = flag_member(one, "enabled", true);
    instance.required = flag_member(one, "required", true);
    instance.allow_unsigned = flag_member(one, "allow_unsigned");
    for (const json::value& grant : list_member(one, "grants")) {
      if (grant.is_string()) instance.grants.emplace_back(grant.get_string().data(), grant.get_string().size());
    }
    if (const json::object* bindings = member(one, "bindings").if_object()) {
      for (const auto& binding : *bindings) {
        if (const json::string* target = binding.value().if_string()) {
          instance.bindings.emplace(std::string(binding.key()), std::string(target->data(), target->size()));
        }
      }
    }
    instance.log_level = text_member(one, "log_level");
    plan.instances.push_back(std::move(instance));
  }
  return plan;
}

// Every problem on a line of its own; the exit code.
int report(Context& context, const ResolvedProfile& profile) {
  for (const std::string& problem : profile.problems) {
    context.error << colored("pintle: ", Color::red, context.color_errors) << one_line(problem) << "\n";
  }
  return exit_invalid;
}

int show(Context& context, const ProfileOptions& options) {
  if (options.name.empty()) {
    Result<json::value> answer = context.admin().json("GET", "/v1/profile");
    if (!answer) return context.fail(answer.status());
    if (!context.printed(*answer)) context.out << document::write_yaml(*answer);
    return exit_ok;
  }
  Result<ResolvedProfile> profile = resolve_profile(options.name, context.profiles);
  if (!profile) return context.fail(profile.status());
  if (!profile->problems.empty()) return report(context, *profile);
  json::value value = options.plan ? plan_json(profile->plan) : profile->merged.value();
  if (json::object* spec = options.plan ? nullptr : value.get_object()["spec"].if_object()) spec->erase("extends");
  if (context.printed(value)) return exit_ok;
  context.out << "# " << profile->path;
  for (const std::string& base : profile->bases) context.out << "\n# over " << base;
  context.out << "\n" << document::write_yaml(value);
  return exit_ok;
}

int validate(Context& context, const ProfileOptions& options) {
  int exit = exit_ok;
  json::array results;
  for (const std::string& name : options.names) {
    Result<ResolvedProfile> profile = resolve_profile(name, context.profiles);
    std::vector<std::string> problems;
    int outcome = exit_ok;
    if (!profile) {
      problems = {profile.status().message()};
      outcome = exit_code_of(profile.status().code());
    } else if (!profile->problems.empty()) {
      problems = profile->problems;
      outcome = exit_invalid;
    }
    if (exit == exit_ok) exit = outcome;
    const std::vector<std::string> awaits = profile ? profile->awaits : std::vector<std::string>();
    results.push_back(
        {{"profile", name}, {"valid", problems.empty()}, {"problems", to_json(problems)}, {"awaits", to_json(awaits)}});
    if (context.format == Format::json || context.format == Format::yaml) continue;
    for (const std::string& problem : problems) {
      context.error << colored("pintle: ", Color::red, context.color_errors) << one_line(problem) << "\n";
    }
    if (!problems.empty()) continue;
    context.out << name << ": " << colored("valid", Color::green, context.color) << ", "
                << profile->plan.instances.size() << " plugins"
                << (awaits.empty() ? "" : "; cannot run yet, it awaits " + joined(awaits, "; ")) << "\n";
  }
  context.printed({{"profiles", results}});
  return exit;
}

json::value change_json(const PlanChange& change) {
  constexpr const char* kinds[] = {"added", "removed", "changed"};
  json::array fields;
  for (const PlanChange::Field& field : change.fields) {
    boost::system::error_code error;
    const auto side = [&](const std::string& text) { return text.empty() ? json::value() : json::parse(text, error); };
    fields.push_back({{"path", field.path}, {"from", side(field.from)}, {"to", side(field.to)}});
  }
  return {{"name", change.instance},
          {"plugin", change.plugin},
          {"change", kinds[static_cast<size_t>(change.kind)]},
          {"fields", fields}};
}

int diff(Context& context, const ProfileOptions& options) {
  Result<NodePlan> from = NodePlan(), to = NodePlan();
  const auto read = [&](const std::string& name, Result<NodePlan>& plan) {
    Result<ResolvedProfile> profile = resolve_profile(name, context.profiles);
    if (!profile) return context.fail(profile.status());
    if (!profile->problems.empty()) return report(context, *profile);
    plan = profile->plan;
    return static_cast<int>(exit_ok);
  };
  std::string from_name;
  if (options.names.size() == 2) {
    from_name = options.names[0];
    if (const int failed = read(options.names[0], from)) return failed;
  } else {
    Result<json::value> answer = context.admin().json("GET", "/v1/profile");
    if (!answer) return context.fail(answer.status());
    from = plan_of_json(*answer);
    from_name = "the node (" + from->profile + ")";
  }
  const std::string to_name = options.names.empty() ? from->profile : options.names.back();
  if (const int failed = read(to_name, to)) return failed;

  const std::vector<PlanChange> changes = diff_plans(*from, *to);
  json::array all;
  for (const PlanChange& change : changes) all.push_back(change_json(change));
  if (context.printed({{"from", from_name}, {"to", to_name}, {"changes", all}})) return exit_ok;
  if (changes.empty()) {
    context.out << "no difference\n";
    return exit_ok;
  }
  for (const PlanChange& change : changes) {
    const std::string name =
        change.instance == change.plugin ? change.instance : change.instance + " (" + change.plugin + ")";
    if (change.kind == PlanChange::Kind::added)
      context.out << colored("+ " + name, Color::green, context.color) << "\n";
    if (change.kind == PlanChange::Kind::removed)
      context.out << colored("- " + name, Color::red, context.color) << "\n";
    if (change.kind != PlanChange::Kind::changed) continue;
    context.out << colored("~ " + name, Color::yellow, context.color) << "\n";
    for (const PlanChange::Field& field : change.fields) {
      context.out << "    " << field.path << ": " << (field.from.empty() ? "absent" : field.from) << " -> "
                  << (field.to.empty() ? "absent" : field.to) << "\n";
    }
  }
  return exit_ok;
}

int apply(Context& context, const ProfileOptions& options) {
  std::string name = options.name;
  // The daemon has another working directory.
  if (is_profile_path(name)) {
    if (char* absolute = realpath(name.c_str(), nullptr)) {
      name = absolute;
      std::free(absolute);
    } else {
      return context.fail(not_found(name + ": there is no such file"));
    }
  }
  const std::string body = name.empty() ? "{}" : json::serialize(json::value{{"profile", name}});
  Result<json::value> answer = context.admin().json("PUT", options.dry_run ? "/v1/profile?dry_run=1" : "/v1/profile",
                                                    body, std::chrono::seconds(300));
  if (!answer) return context.fail(answer.status());
  bool failed = false;
  const json::array& changes = list_member(*answer, "changes");
  for (const json::value& change : changes) failed = failed || text_member(change, "change") == "failed";
  const int exit = failed ? exit_failure : exit_ok;
  if (context.printed(*answer)) return exit;
  if (changes.empty()) context.out << "nothing to change\n";
  for (const json::value& change : changes) {
    const std::string what = text_member(change, "change"), key = text_member(change, "key"),
                      retiring = text_member(change, "retiring"), message = text_member(change, "message");
    context.out << text_member(change, "name") << ": "
                << colored(what, what == "failed" ? Color::red : Color::none, context.color)
                << (what == "replaced" && !key.empty() ? " by " + key : "")
                << (retiring.empty() ? "" : "; " + retiring + " retires")
                << (message.empty() ? "" : ": " + one_line(message)) << "\n";
  }
  if (options.dry_run) context.note("nothing was touched (--dry-run)");
  return exit;
}

constexpr const char* name_help = "A profile's name, or its file's path";

}  // namespace

void add_profile(CLI::App& app, Context& context) {
  CLI::App* group = app.add_subcommand("profile", "List, check, compare and apply profiles");
  group->require_subcommand(1);
  command<NoOptions>(*group, context, "ls", "List the profiles that this node has", declare_none, list);
  command<ProfileOptions>(
      *group, context, "show", "A profile with all that it extends; without a name, what is in force",
      [](CLI::App& sub, ProfileOptions& options) {
        sub.add_option("name", options.name, name_help)->type_name("PROFILE");
        sub.add_flag("--plan", options.plan, "What comes of it: every instance with its file and complete config");
      },
      show);
  command<ProfileOptions>(
      *group, context, "validate", "Check profiles and the config of their plugins; nothing is touched",
      [](CLI::App& sub, ProfileOptions& options) {
        sub.add_option("name", options.names, name_help)->required()->type_name("PROFILE");
      },
      validate);
  command<ProfileOptions>(
      *group, context, "diff", "What applying a profile would change; of two, what the second has different",
      [](CLI::App& sub, ProfileOptions& options) {
        sub.add_option("name", options.names, name_help)->expected(1, 2)->type_name("PROFILE");
      },
      diff);
  command<ProfileOptions>(
      *group, context, "apply", "Make the node what a profile says; without a name, read the present one again",
      [](CLI::App& sub, ProfileOptions& options) {
        sub.add_option("name", options.name, name_help)->type_name("PROFILE");
        sub.add_flag("--dry-run", options.dry_run, "Say what would be done, touch nothing");
      },
      apply);
}

}  // namespace pintle::cli
