// No layer, however made, writes outside of its root: the folder beside the root stays as it was.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>

#include "cri/images/unpack.hpp"
#include "sdk/support/files/files.hpp"

namespace {
namespace files = pintle::files;

struct Place {
  std::string path;
  files::Descriptor top;
  Place() {
    char name[] = "/dev/shm/pintle-unpack-fuzz-XXXXXX";
    if (!mkdtemp(name)) std::abort();
    path = name;
    top = std::move(*files::open_folder(path));
    if (!files::make_folder_at(top.get(), "outside")) std::abort();
  }
  ~Place() {
    if (auto shm = files::open_folder("/dev/shm")) (void)files::remove_tree(shm->get(), path.substr(9));
  }
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Place place;
  files::Descriptor layer(memfd_create("layer", MFD_CLOEXEC));
  if (!files::write_all(layer.get(), {reinterpret_cast<const char*>(data), size})) std::abort();
  auto root = files::make_folder_at(place.top.get(), "root");
  if (!root) std::abort();
  pintle::images::UnpackLimits limits;
  limits.expansion.bytes = 8 << 20;
  limits.entries = 1000;
  (void)pintle::images::unpack_layer(layer.get(), root->get(), size % 2 == 0, limits);
  auto names = files::list_folder(place.top.get());
  auto outside = files::open_folder(place.path + "/outside");
  if (!names || names->size() != 2 || !outside || !files::list_folder(outside->get())->empty()) std::abort();
  (void)files::remove_tree(place.top.get(), "root");
  return 0;
}
