#include "kernel/node/wiring.hpp"

#include <algorithm>
#include <functional>

namespace pintle::kernel {
namespace {

bool provides(const Manifest& manifest, const std::string& interface) {
  return std::any_of(manifest.provides.begin(), manifest.provides.end(),
                     [&](const Provided& p) { return p.interface == interface; });
}

std::string joined(const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : ", ") + name;
  return out;
}

}  // namespace

Result<Wiring> wire(const std::vector<WiringInput>& instances) {
  Wiring out;
  std::map<std::string, const WiringInput*> by_name;
  for (const WiringInput& instance : instances) by_name[instance.plan->name] = &instance;

  for (const WiringInput& instance : instances) {
    const std::string& name = instance.plan->name;
    const auto problem = [&](const std::string& text) { out.problems.emplace(name, name + ": " + text); };
    auto& lists = out.providers[name];
    for (const auto& [need, provider] : instance.plan->bindings)
      if (std::none_of(instance.manifest->needs.begin(), instance.manifest->needs.end(),
                       [&](const Need& n) { return n.name == need; }))
        problem("bindings: the plugin has no need \"" + need + "\"");
    for (const Need& need : instance.manifest->needs) {
      auto& list = lists.emplace_back();
      const std::string what = "need " + need.name + " (" + need.interface + ")";
      const auto& grants = instance.plan->grants;
      if (!instance.is_signed && std::find(grants.begin(), grants.end(), need.interface) == grants.end()) {
        if (need.when != When::optional)
          problem("its " + what +
                  " is not granted; an unsigned plugin calls only what its `grants` in the profile name");
        continue;
      }
      if (auto named = instance.plan->bindings.find(need.name); named != instance.plan->bindings.end()) {
        auto provider = by_name.find(named->second);
        if (provider == by_name.end() || !provides(*provider->second->manifest, need.interface)) {
          problem("its " + what + " is bound to " + named->second + ", which does not provide it");
        } else {
          list.push_back(named->second);
        }
        continue;
      }
      for (const WiringInput& other : instances)
        if (&other != &instance && provides(*other.manifest, need.interface)) list.push_back(other.plan->name);
      if (!need.many && list.size() > 1) {
        problem("its " + what + " could be answered by " + joined(list) + "; name one under `bindings`");
        list.clear();
      } else if (list.empty() && need.when == When::start) {
        problem("no plugin of the profile answers its " + what);
      }
    }
  }

  enum class Mark { none, open, done };
  std::map<std::string, Mark> marks;
  std::vector<std::string> path;
  Status cycle;
  std::function<void(const std::string&)> visit = [&](const std::string& name) {
    if (!cycle.is_ok() || marks[name] == Mark::done) return;
    if (marks[name] == Mark::open) {
      std::string circle;
      for (auto it = std::find(path.begin(), path.end(), name); it != path.end(); ++it) circle += *it + " needs ";
      cycle = invalid_argument("instances need each other to start, in a circle: " + circle + name +
                               "; one of these needs must be late, or another provider be bound");
      return;
    }
    marks[name] = Mark::open;
    path.push_back(name);
    const auto& needs = by_name.at(name)->manifest->needs;
    for (size_t i = 0; i < needs.size(); ++i)
      if (needs[i].when == When::start)
        for (const std::string& provider : out.providers[name][i]) visit(provider);
    path.pop_back();
    marks[name] = Mark::done;
    out.order.push_back(name);
  };
  for (const WiringInput& instance : instances) visit(instance.plan->name);
  if (!cycle.is_ok()) return cycle;
  return out;
}

}  // namespace pintle::kernel
