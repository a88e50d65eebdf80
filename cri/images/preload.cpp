#include "cri/images/preload.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <boost/json.hpp>

namespace pintle::images {
namespace {

namespace json = boost::json;

constexpr char kMemory[] = "preloaded.json";

/// What changes when the file does; empty if it is neither a file nor a layout folder.
std::string stamp_of(int folder, const std::string& name) {
  struct stat about {};
  if (fstatat(folder, name.c_str(), &about, 0) != 0) return {};
  if (S_ISDIR(about.st_mode) && fstatat(folder, (name + "/index.json").c_str(), &about, 0) != 0) return {};
  if (!S_ISREG(about.st_mode)) return {};
  return std::to_string(about.st_size) + " " + std::to_string(about.st_mtim.tv_sec) + "." +
         std::to_string(about.st_mtim.tv_nsec) + " " + std::to_string(about.st_ino);
}

json::object remembered(const std::string& store) {
  auto text = files::read_file(store + "/" + kMemory);
  if (!text) return {};
  json::error_code error;
  json::value value = json::parse(*text, error);
  // Without a memory everything is loaded once more, which changes nothing.
  return error || !value.is_object() ? json::object() : std::move(value.as_object());
}

bool is_known(Store& store, const json::value* entry, const std::string& stamp) {
  if (!entry || !entry->is_object()) return false;
  const json::value* known = entry->get_object().if_contains("stamp");
  const json::value* ids = entry->get_object().if_contains("images");
  if (!known || !known->is_string() || known->get_string() != stamp || !ids || !ids->is_array()) return false;
  return std::all_of(ids->get_array().begin(), ids->get_array().end(), [&](const json::value& id) {
    auto digest = id.is_string() ? Digest::parse(std::string(id.get_string())) : Result<Digest>(not_found(""));
    return digest && store.is_whole(*digest);
  });
}

}  // namespace

std::vector<Preloaded> preload(Store& store, const std::string& folder, const std::atomic<bool>& cancelled) {
  std::vector<Preloaded> done;
  auto opened = files::open_folder(folder);
  if (!opened) {
    if (opened.status().code() != Code::not_found) done.push_back({folder, opened.status(), {}});
    return done;
  }
  auto names = files::list_folder(opened->get());
  if (!names) return {{folder, names.status(), {}}};
  std::sort(names->begin(), names->end());
  const json::object before = remembered(store.path());
  json::object memory;
  for (const std::string& name : *names) {
    if (name.starts_with('.') || name.ends_with(".part")) continue;
    const std::string stamp = stamp_of(opened->get(), name);
    const json::value* known = before.if_contains(name);
    if (known && (cancelled || (!stamp.empty() && is_known(store, known, stamp)))) {
      memory[name] = *known;
      continue;
    }
    if (cancelled) continue;
    Preloaded one{folder + "/" + name, {}, {}};
    auto images = store.load(one.file, "");
    one.status = images.status();
    if (images) {
      one.images = std::move(*images);
      json::array ids;
      for (const auto& image : one.images) ids.push_back(json::value(image->id.to_string()));
      memory[name] = json::object{{"stamp", stamp}, {"images", std::move(ids)}};
    }
    done.push_back(std::move(one));
  }
  if (memory == before) return done;
  auto own = files::open_folder(store.path());
  const Status written =
      own ? files::write_file(own->get(), kMemory, json::serialize(memory), files::Durability::cached) : own.status();
  if (!written) done.push_back({store.path() + "/" + kMemory, written, {}});
  return done;
}

}  // namespace pintle::images
