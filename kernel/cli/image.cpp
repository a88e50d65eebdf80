// pintle image: the images of this node's runtime.

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <cstdlib>
#include <filesystem>

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
  std::string credentials;
  std::string output;
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

json::value details_of(const image::v1::Image& one) {
  json::value value = to_json(one);
  json::object& object = value.get_object();
  object["environment"] = json::array(one.environment().begin(), one.environment().end());
  object["workingDirectory"] = one.working_directory();
  object["user"] = one.user();
  object["stopSignal"] = one.stop_signal();
  json::object labels;
  for (const auto& [key, label] : one.labels()) labels[key] = label;
  object["labels"] = std::move(labels);
  object["manifest"] = one.manifest_digest();
  object["pinned"] = one.image().pinned();
  object["layers"] = json::array(one.layers().begin(), one.layers().end());
  return value;
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
  if (table.empty())
    return context.note("no images; get one with: pintle image pull REFERENCE, or pintle image load FILE");
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

/// How far a pull is. On a terminal one line that is written again and again; elsewhere a line for each step.
class ProgressLine {
 public:
  ProgressLine(Context& context, std::string name)
      : context_(context), name_(std::move(name)), is_terminal_(isatty(STDERR_FILENO) == 1 && shows_text(context)) {}
  ~ProgressLine() { clear(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void show(const image::v1::PullProgress& progress) {
    if (!shows_text(context_)) return;
    uint64_t size = 0, done = 0, wanted = 0, here = 0;
    for (const auto& blob : progress.blobs()) {
      here += blob.present() ? 1 : 0;
      if (blob.present()) continue;
      wanted += blob.done() < blob.size() ? 1 : 0;
      size += blob.size();
      done += blob.done();
    }
    if (is_terminal_) {
      clear();
      context_.error << text_of(progress, size, done, wanted) << std::flush;
      shown_ = true;
      return;
    }
    if (progress.phase() == phase_ && !is_first_) return;
    if (progress.phase() == image::v1::PullProgress::FETCHING && progress.blobs_size() > 0) {
      context_.out << name_ << ": " << progress.blobs_size() << " blobs, " << here << " of them here, "
                   << short_bytes(size) << " to fetch" << std::endl;
    }
    phase_ = progress.phase();
    is_first_ = false;
  }
  void clear() {
    if (shown_) context_.error << "\r\033[K" << std::flush;
    shown_ = false;
  }

 private:
  static bool shows_text(const Context& context) {
    return context.format == Format::table || context.format == Format::wide;
  }
  std::string text_of(const image::v1::PullProgress& progress, uint64_t size, uint64_t done, uint64_t wanted) const {
    switch (progress.phase()) {
      case image::v1::PullProgress::RESOLVING:
        return name_ + ": asking the registry";
      case image::v1::PullProgress::FETCHING: {
        constexpr uint64_t kWidth = 30;
        const uint64_t full = size == 0 ? 0 : done * kWidth / size;
        return name_ + ": [" + std::string(full, '#') + std::string(kWidth - full, '.') + "] " + short_bytes(done) +
               " of " + short_bytes(size) + ", " + std::to_string(wanted) + " blobs to come" +
               (progress.cuts() == 0 ? "" : ", cut " + std::to_string(progress.cuts()) + " times");
      }
      default:
        return name_ + ": unpacking";
    }
  }
  Context& context_;
  std::string name_;
  bool is_terminal_;
  bool shown_ = false;
  bool is_first_ = true;
  image::v1::PullProgress::Phase phase_ = image::v1::PullProgress::RESOLVING;
};

/// What a registry said is not about this node: the usual hints would lead astray.
int fail_of_registry(Context& context, const Status& status) {
  if (context.admin().unreachable()) return context.fail(status);
  context.error << colored("pintle: ", Color::red, context.color_errors) << one_line(status.message()) << "\n";
  return exit_code_of(status.code());
}

int pull(Context& context, const ImageOptions& options) {
  image::v1::ListResponse pulled;
  int exit = exit_ok;
  for (const std::string& name : options.names) {
    image::v1::PullRequest request;
    request.set_reference(name);
    if (!options.credentials.empty()) {
      const size_t colon = options.credentials.find(':');
      if (colon == std::string::npos) return context.fail(invalid_argument("--creds has to be USER:PASSWORD"));
      request.mutable_auth()->set_username(options.credentials.substr(0, colon));
      request.mutable_auth()->set_password(options.credentials.substr(colon + 1));
    }
    image::v1::PullProgress progress;
    Status status;
    {
      ProgressLine line(context, one_line(name));
      status = context.admin().stream_call(ImageBackendInterface::info, "PullWithProgress", request, options.provider,
                                           [&](std::string_view bytes) {
                                             progress.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
                                             line.show(progress);
                                           });
    }
    if (status && progress.has_image()) {
      *pulled.add_images() = progress.image();
    } else {
      const int failed =
          fail_of_registry(context, status ? internal_error("pull " + name + ": no image came") : status);
      if (exit == exit_ok) exit = failed;
    }
  }
  if (pulled.images_size() > 0) print(context, pulled.images());
  return exit;
}

int inspect(Context& context, const ImageOptions& options) {
  json::array all;
  int exit = exit_ok;
  for (const std::string& name : options.names) {
    image::v1::StatusRequest request;
    request.set_reference(name);
    image::v1::StatusResponse response;
    Status status = context.admin().call(ImageBackendInterface::info, "Status", request, response,
                                         {options.provider, std::chrono::seconds(30)});
    if (status && !response.has_image()) status = not_found("image '" + name + "' is not on this node");
    if (!status) {
      const int failed = context.fail(status);
      if (exit == exit_ok) exit = failed;
      continue;
    }
    all.push_back(details_of(response.image()));
  }
  if (all.empty()) return exit;
  // One image is shown as itself: what a script asks for is not in a list of one.
  const json::value shown = options.names.size() == 1 ? all.front() : json::value(all);
  if (!context.printed(shown)) context.out << pretty_json(shown);
  return exit;
}

int set_pinned(Context& context, const ImageOptions& options, bool pinned) {
  image::v1::ListResponse set;
  int exit = exit_ok;
  for (const std::string& name : options.names) {
    image::v1::SetPinnedRequest request;
    request.set_reference(name);
    request.set_pinned(pinned);
    image::v1::SetPinnedResponse response;
    if (Status status = context.admin().call(ImageBackendInterface::info, "SetPinned", request, response,
                                             {options.provider, std::chrono::seconds(30)});
        !status) {
      const int failed = context.fail(status);
      if (exit == exit_ok) exit = failed;
      continue;
    }
    *set.add_images() = response.image();
    if (context.format == Format::table || context.format == Format::wide)
      context.out << one_line(name) << (pinned ? ": stays on this node" : ": may be removed when no container uses it")
                  << "\n";
  }
  if (context.format != Format::table && context.format != Format::wide) print(context, set.images());
  return exit;
}

int pin(Context& context, const ImageOptions& options) { return set_pinned(context, options, true); }
int unpin(Context& context, const ImageOptions& options) { return set_pinned(context, options, false); }

int save(Context& context, const ImageOptions& options) {
  // The node writes the file itself, and has another working directory.
  std::error_code problem;
  const std::string path = std::filesystem::absolute(options.output, problem).lexically_normal().string();
  image::v1::SaveRequest request;
  request.set_reference(options.reference);
  request.set_path(path);
  image::v1::SaveResponse response;
  if (Status status = context.admin().call(ImageBackendInterface::info, "Save", request, response,
                                           {options.provider, std::chrono::minutes(30)});
      !status) {
    return context.fail(status);
  }
  if (!context.printed({{"file", path}, {"bytes", response.bytes()}}))
    context.out << options.reference << ": saved to " << path << " (" << short_bytes(response.bytes()) << ")\n";
  return exit_ok;
}

void declare_provider(CLI::App& sub, ImageOptions& options) {
  sub.add_option("--provider", options.provider, "Which plugin, if several keep images")->type_name("PLUGIN");
}

}  // namespace

void add_image(CLI::App& app, Context& context) {
  CLI::App* group = app.add_subcommand("image", "Pull, load, list, save and remove images");
  group->require_subcommand(1);
  command<ImageOptions>(*group, context, "ls", "List images", declare_provider, list);
  command<ImageOptions>(
      *group, context, "inspect", "Show all that is known of images, as JSON",
      [](CLI::App& sub, ImageOptions& options) {
        sub.add_option("image", options.names, "Names or ids")->required()->type_name("IMAGE");
        declare_provider(sub, options);
      },
      inspect);
  command<ImageOptions>(
      *group, context, "pull", "Fetch images from their registries; what was cut goes on where it was",
      [](CLI::App& sub, ImageOptions& options) {
        sub.add_option("image", options.names, "Names, such as docker.io/library/busybox:1.36")
            ->required()
            ->type_name("REFERENCE");
        sub.add_option("--creds", options.credentials,
                       "For the registry; PINTLE_REGISTRY_CREDS keeps it out of process lists")
            ->envname("PINTLE_REGISTRY_CREDS")
            ->type_name("USER:PASSWORD");
        declare_provider(sub, options);
      },
      pull);
  command<ImageOptions>(
      *group, context, "save", "Write an image to an archive that 'load', docker and skopeo take",
      [](CLI::App& sub, ImageOptions& options) {
        sub.add_option("image", options.reference, "Name or id")->required()->type_name("IMAGE");
        sub.add_option("file", options.output, "A file that does not exist yet")->required()->type_name("FILE");
        declare_provider(sub, options);
      },
      save);
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
  for (const auto& [name, what, run] :
       {std::tuple("pin", "Keep images that no container uses, as those that were loaded are kept", &pin),
        std::tuple("unpin", "Let images be removed when no container uses them and the disk fills", &unpin)})
    command<ImageOptions>(
        *group, context, name, what,
        [](CLI::App& sub, ImageOptions& options) {
          sub.add_option("image", options.names, "Names or ids")->required()->type_name("IMAGE");
          declare_provider(sub, options);
        },
        run);
  command<ImageOptions>(
      *group, context, "rm", "Remove image names, and images with their last name",
      [](CLI::App& sub, ImageOptions& options) {
        sub.add_option("image", options.names, "Names or ids")->required()->type_name("IMAGE");
        declare_provider(sub, options);
      },
      remove);
}

}  // namespace pintle::cli
