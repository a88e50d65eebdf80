// pintle logs: what pintled and its plugins log.

#include <CLI/CLI.hpp>
#include <boost/json.hpp>

#include "kernel/cli/cli.hpp"

namespace pintle::cli {

namespace json = boost::json;

namespace {

struct LogOptions {
  std::string plugin;
  std::string level;
  uint32_t tail = 0;
  bool has_tail = false;
  bool follow = false;
};

Color level_color(const std::string& level) {
  if (level == "error") return Color::red;
  if (level == "warn") return Color::yellow;
  return level == "info" ? Color::none : Color::dim;
}

// "10:00:00.123  warn   network-bridge  the link is gone  link=pintle0"
void print_line(Context& context, std::string_view text) {
  boost::system::error_code error;
  const json::value line = json::parse(json::string_view(text.data(), text.size()), error);
  if (error || !line.is_object() || context.format == Format::json) {
    context.out << text << "\n";
    return;
  }
  if (context.format == Format::yaml) {
    context.out << "---\n" << document::write_yaml(line);
    return;
  }
  std::string level = text_member(line, "level"), plugin = text_member(line, "plugin");
  const Color color = level_color(level);
  level.resize(std::max<size_t>(level.size(), 5), ' ');
  if (plugin.empty()) plugin = "pintled";
  std::string fields;
  for (const auto& one : line.get_object()) {
    const std::string key(one.key());
    if (key == "time" || key == "level" || key == "plugin" || key == "message") continue;
    const json::string* plain = one.value().if_string();
    const auto add = [&](const std::string& name, const json::value& value) {
      const json::string* word = value.if_string();
      const bool bare = word != nullptr && word->find_first_of(" \"=") == json::string::npos && !word->empty();
      fields += " " + name + "=" + (bare ? std::string(word->data(), word->size()) : json::serialize(value));
    };
    if (plain == nullptr && one.value().is_object()) {
      for (const auto& field : one.value().get_object()) add(std::string(field.key()), field.value());
    } else {
      add(key, one.value());
    }
  }
  context.out << colored(one_line(text_member(line, "time")), Color::dim, context.color) << " "
              << colored(level, color, context.color) << " " << colored(one_line(plugin), Color::bold, context.color)
              << ": " << one_line(text_member(line, "message")) << colored(one_line(fields), Color::dim, context.color)
              << "\n";
}

int show_logs(Context& context, const LogOptions& options) {
  std::string path = "/v1/logs?";
  const auto parameter = [&](const std::string& name, const std::string& value) {
    if (!value.empty()) path += (path.back() == '?' ? "" : "&") + name + "=" + percent_encoded(value);
  };
  parameter("plugin", options.plugin);
  parameter("level", options.level);
  parameter("tail", options.has_tail ? std::to_string(options.tail) : "");
  parameter("follow", options.follow ? "1" : "");
  std::string rest;  // the beginning of a line whose end has not come
  const Status status = context.admin().stream(path, [&](std::string_view piece) {
    rest += piece;
    size_t from = 0;
    for (size_t end; (end = rest.find('\n', from)) != std::string::npos; from = end + 1) {
      if (end > from) print_line(context, std::string_view(rest).substr(from, end - from));
    }
    rest.erase(0, from);
    context.out.flush();
    return context.out.good();
  });
  return status ? static_cast<int>(exit_ok) : context.fail(status);
}

}  // namespace

void add_logs(CLI::App& app, Context& context) {
  command<LogOptions>(
      app, context, "logs", "What pintled and its plugins log",
      [](CLI::App& sub, LogOptions& options) {
        sub.add_option("name", options.plugin, "Only this plugin; pintled for the daemon itself")->type_name("PLUGIN");
        sub.add_flag("-f,--follow", options.follow, "Go on as it comes, until interrupted");
        sub.add_option("--level", options.level, "Only this level and what is worse")
            ->type_name("LEVEL")
            ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error"}).description(""));
        sub.add_option_function<uint32_t>(
               "--tail",
               [&options](const uint32_t& lines) {
                 options.tail = lines;
                 options.has_tail = true;
               },
               "Only the last lines")
            ->type_name("LINES");
      },
      show_logs);
}

}  // namespace pintle::cli
