// pintle image: the images of this node's runtime.

#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <cstdlib>

#include "kernel/cli/cli.hpp"
#include "pintle/image.pintle.hpp"

namespace pintle::cli {

namespace json = boost::json;
using image::v1::ImageBackendInterface;

namespace {

struct ImageOptions {
  std::vector<std::string> names;
  std::string reference;
  std::string provider;
};

json::value to_json(const image::v1::Image& one) {
  json::array tags(one.image().repo_tags().begin(), one.image().repo_tags().end());
  json::array digests(one.image().repo_digests().begin(), one.image().repo_digests().end());
  json::array entrypoint(one.entrypoint().begin(), one.entrypoint().end());
  json::array arguments(one.command().begin(), one.command().end());
  return {{"id", one.image().id()},
          {"tags", tags},
          {"digests", digests},
          {"size", one.image().size()},
          {"created", format_time(one.created_at())},
          {"architecture", one.architecture()},
          {"entrypoint", entrypoint},
          {"command", arguments},
          {"layers", one.layers_size()}};
}

std::string short_id(const std::string& id) {
  const size_t colon = id.find(':');
  return id.substr(colon == std::string::npos ? 0 : colon + 1, 12);
}

void print(Context& context, const google::protobuf::RepeatedPtrField<image::v1::Image>& images) {
  json::array all;
  Table table({{"IMAGE"},
               {"ID"},
               {"SIZE", false, true},
               {"AGE", false, true},
               {"ARCHITECTURE", true},
               {"LAYERS", true, true},
               {"DIGEST", true}});
  for (const image::v1::Image& one : images) {
    all.push_back(to_json(one));
    const auto add = [&](const std::string& name) {
      table.add({name, short_id(one.image().id()), short_bytes(one.image().size()), age(one.created_at()),
                 one.architecture(), std::to_string(one.layers_size()), one.manifest_digest()});
    };
    for (const std::string& tag : one.image().repo_tags()) add(tag);
    if (one.image().repo_tags().empty())
      add(one.image().repo_digests().empty() ? "<none>" : one.image().repo_digests(0));
  }
  if (context.printed({{"images", all}})) return;
  if (table.empty()) return context.note("no images; load one with: pintle image load FILE");
  table.print(context.out, context.format == Format::wide, context.color);
}

int list(Context& context, const ImageOptions& options) {
  image::v1::ListRequest request;
  image::v1::ListResponse response;
  if (Status status = context.admin().call(ImageBackendInterface::info, "List", request, response,
                                           {options.provider, std::chrono::seconds(30)});
      !status) {
    return context.fail(status);
  }
  print(context, response.images());
  return exit_ok;
}

int load(Context& context, const ImageOptions& options) {
  image::v1::ListResponse loaded;
  int exit = exit_ok;
  for (const std::string& name : options.names) {
    // The node reads the file itself, and has another working directory.
    char* absolute = realpath(name.c_str(), nullptr);
    Status status = absolute == nullptr ? not_found(name + ": there is no such file or folder") : Status::ok();
    if (status) {
      image::v1::LoadRequest request;
      request.set_path(absolute);
      request.set_reference(options.reference);
      image::v1::LoadResponse response;
      status = context.admin().call(ImageBackendInterface::info, "Load", request, response,
                                    {options.provider, std::chrono::minutes(30)});
      for (const image::v1::Image& one : response.images()) *loaded.add_images() = one;
    }
    std::free(absolute);
    if (!status) {
      const int failed = context.fail(status);
      if (exit == exit_ok) exit = failed;
    }
  }
  if (loaded.images_size() > 0) print(context, loaded.images());
  return exit;
}

int remove(Context& context, const ImageOptions& options) {
  int exit = exit_ok;
  json::array removed;
  for (const std::string& name : options.names) {
    image::v1::RemoveRequest request;
    request.set_reference(name);
    image::v1::RemoveResponse response;
    if (Status status = context.admin().call(ImageBackendInterface::info, "Remove", request, response,
                                             {options.provider, std::chrono::minutes(2)});
        !status) {
      const int failed = context.fail(status);
      if (exit == exit_ok) exit = failed;
      continue;
    }
    for (const std::string& id : response.removed_ids()) removed.push_back(json::value(id));
    if (context.format == Format::table || context.format == Format::wide) {
      context.out << name
                  << (response.removed_ids().empty() ? ": this name removed, the image stays under others"
                                                     : ": removed")
                  << "\n";
    }
  }
  context.printed({{"removed", removed}});
  return exit;
}

void declare_provider(CLI::App& sub, ImageOptions& options) {
  sub.add_option("--provider", options.provider, "Which plugin, if several keep images")->type_name("PLUGIN");
}

}  // namespace

void add_image(CLI::App& app, Context& context) {
  CLI::App* group = app.add_subcommand("image", "Load, list and remove images");
  group->require_subcommand(1);
  command<ImageOptions>(*group, context, "ls", "List images", declare_provider, list);
  command<ImageOptions>(
      *group, context, "load", "Load image archives (OCI layout or docker save) or layout folders",
      [](CLI::App& sub, ImageOptions& options) {
        sub.add_option("file", options.names, "Archives or layout folders")
            ->required()

            ->type_name("FILE");
        sub.add_option("--name", options.reference, "A name for an archive that brings none")->type_name("REFERENCE");
        declare_provider(sub, options);
      },
      load);
  command<ImageOptions>(
      *group, context, "rm", "Remove image names, and images with their last name",
      [](CLI::App& sub, ImageOptions& options) {
        sub.add_option("image", options.names, "Names or ids")->required()->type_name("IMAGE");
        declare_provider(sub, options);
      },
      remove);
}

}  // namespace pintle::cli
