#include "sdk/testkit/plugin_template.hpp"

#include <fcntl.h>
#include <re2/re2.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "sdk/support/document/nearest.hpp"
#include "sdk/support/files/files.hpp"
#include "sdk/support/process/own_program.hpp"
#include "sdk/testkit/contract.hpp"

namespace pintle::testkit {
namespace {

namespace fs = std::filesystem;
using Words = std::map<std::string, std::string>;

std::string last_part(std::string_view full_name) { return std::string(full_name.substr(full_name.rfind('.') + 1)); }

std::string replaced(std::string_view in, std::string_view from, std::string_view to) {
  std::string text(in);
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
  return text;
}

Result<const InterfaceInfo*> interface_named(const std::string& name) {
  std::vector<std::string> names;
  std::string list;
  for (const InterfaceInfo* info : known_interfaces()) {
    if (info->name == name || last_part(info->name) == name) return info;
    names.push_back(last_part(info->name));
    names.emplace_back(info->name);
    list += (list.empty() ? "" : ", ") + last_part(info->name);
  }
  const std::string near = document::nearest(name, names);
  return invalid_argument("there is no interface " + name + (near.empty() ? "" : "; did you mean " + near + "?") +
                          " Known are " + list);
}

/// "acme-runtime" is AcmeRuntime, unless the skeleton has that name.
std::string class_name(const std::string& plugin, const std::string& service) {
  std::string name;
  bool upper = true;
  for (const char c : plugin) {
    if (c == '-') {
      upper = true;
    } else {
      name += upper ? static_cast<char>(std::toupper(static_cast<unsigned char>(c))) : c;
      upper = false;
    }
  }
  return name == service ? name + "Plugin" : name;
}

/// "RemovePodSandbox" is METHOD_REMOVE_POD_SANDBOX.
std::string constant_name(std::string_view method) {
  std::string name = "METHOD";
  for (size_t i = 0; i < method.size(); ++i) {
    const bool upper = std::isupper(static_cast<unsigned char>(method[i])) != 0;
    const bool after_lower = i > 0 && std::islower(static_cast<unsigned char>(method[i - 1])) != 0;
    if (i == 0 || (upper && after_lower)) name += '_';
    name += static_cast<char>(std::toupper(static_cast<unsigned char>(method[i])));
  }
  return name;
}

void add_cpp_words(const InterfaceInfo& info, Words& words) {
  const std::string package(info.name.substr(0, info.name.rfind('.')));
  const auto message = [&](std::string_view full_name) {
    const bool is_own = full_name.substr(0, full_name.rfind('.')) == package;
    return is_own ? "api::" + last_part(full_name) : "::" + replaced(full_name, ".", "::");
  };
  std::string methods;
  for (const MethodInfo& method : info.methods) {
    const std::string name(method.name), response = message(method.response);
    const std::string result = method.streams ? "Task<Status>" : "Task<Result<" + response + ">>";
    const std::string writer = method.streams ? ", StreamWriter<" + response + ">&" : "";
    methods += "\n  " + result + " " + name + "(Call&, const " + message(method.request) + "&" + writer +
               ") override {\n" + "    co_return unimplemented(\"" + name + " is still to be written\");\n  }\n";
  }
  // From the top: inside of `using namespace pintle` the CRI's `runtime` and our own would be one name for two.
  words["NAMESPACE"] = "::" + replaced(package, ".", "::");
  words["METHODS"] = methods;
}

void add_c_words(const InterfaceInfo& info, Words& words) {
  std::string methods, cases;
  for (const MethodInfo& method : info.methods) {
    const std::string constant = constant_name(method.name);
    methods += "  " + constant + " = " + std::to_string(method.number) + ",\n";
    cases += "    case " + constant + ":\n      answer(self, call->call_id, PINTLE_UNIMPLEMENTED, \"" +
             std::string(method.name) + " is still to be written\", NULL);\n      break;\n";
  }
  words["METHODS"] = methods;
  words["CASES"] = cases;
}

/// The text with each @WORD@ that is known replaced.
std::string filled(const std::string& text, const Words& words) {
  std::string out;
  size_t from = 0;
  for (size_t at = text.find('@'); at != std::string::npos; at = text.find('@', at + 1)) {
    const size_t end = text.find('@', at + 1);
    if (end == std::string::npos) break;
    const auto word = words.find(text.substr(at + 1, end - at - 1));
    if (word == words.end()) continue;
    out.append(text, from, at - from).append(word->second);
    from = end + 1;
    at = end;
  }
  return out.append(text, from);
}

/// Names of the files to be and their texts.
Result<std::map<std::string, std::string>> rendered(const std::string& template_folder, const std::string& language,
                                                    const Words& words) {
  std::map<std::string, std::string> out;
  for (const std::string& part : {std::string("all"), language}) {
    const std::string path = template_folder + "/" + part;
    Result<files::Descriptor> folder = files::open_folder(path);
    if (!folder) return folder.status().with_context("the plugin template");
    Result<std::vector<std::string>> names = files::list_folder(folder->get());
    if (!names) return names.status();
    for (const std::string& name : *names) {
      Result<std::string> text = files::read_file(folder->get(), name);
      if (!text) return text.status().with_context(path);
      out[name == "gitignore" ? ".gitignore" : name] = filled(*text, words);
    }
  }
  return out;
}

}  // namespace

Result<std::vector<std::string>> write_plugin(const NewPlugin& wanted) {
  static const re2::RE2 right_name("[a-z]([a-z0-9-]*[a-z0-9])?");
  if (wanted.name.size() > 63 || !re2::RE2::FullMatch(wanted.name, right_name)) {
    return invalid_argument("\"" + wanted.name +
                            "\" is no name of a plugin; use at most 63 of a-z, 0-9 and '-', starting with a letter");
  }
  if (wanted.language != "c++" && wanted.language != "c") {
    return invalid_argument("there is no template in " + wanted.language + "; take c++ or c");
  }
  Result<const InterfaceInfo*> found = interface_named(wanted.interface_name);
  if (!found) return found.status();
  const InterfaceInfo& info = **found;
  const std::string service = last_part(info.name);
  const bool is_c = wanted.language == "c";
  Words words = {{"NAME", wanted.name},
                 {"CLASS", class_name(wanted.name, service)},
                 {"SERVICE", service},
                 {"INTERFACE", std::string(info.name)},
                 {"REVISION", std::to_string(info.revision)},
                 {"SCHEMA", std::string(info.schema)},
                 {"SCHEMA_FOLDER", "/usr/share/pintle/schema"},
                 {"SOURCE", is_c ? "plugin.c" : "plugin.cpp"},
                 {"SDK_VERSION", std::to_string(PINTLE_ABI_MAJOR) + "." + std::to_string(PINTLE_ABI_MINOR)}};
  is_c ? add_c_words(info, words) : add_cpp_words(info, words);
  const std::string template_folder =
      wanted.template_folder.empty() ? process::installed_beside("share/pintle/template") : wanted.template_folder;
  auto texts = rendered(template_folder, wanted.language, words);
  if (!texts) return texts.status();

  const bool is_new = access(wanted.folder.c_str(), F_OK) != 0;
  if (Status made = files::make_folders(wanted.folder, 0755); !made) return made;
  Result<files::Descriptor> folder = files::open_folder(wanted.folder);
  if (!folder) return folder.status();
  Result<std::vector<std::string>> present = files::list_folder(folder->get());
  if (!present) return present.status();
  if (!present->empty()) {
    return already_exists(wanted.folder + " is not empty (" + present->front() +
                          "); give another folder with --output");
  }
  std::vector<std::string> written;
  Status status;
  for (const auto& [name, text] : *texts) {
    status = files::write_file(folder->get(), name, text, files::Durability::cached, 0644);
    if (!status) break;
    written.push_back(name);
  }
  if (!status) {
    for (const std::string& name : written) unlinkat(folder->get(), name.c_str(), 0);
    if (is_new) rmdir(wanted.folder.c_str());
    return status.with_context(wanted.folder);
  }
  for (std::string& name : written) name.insert(0, wanted.folder + "/");
  return written;
}

}  // namespace pintle::testkit
