#include "cri/node_files.hpp"

#include <arpa/inet.h>

#include <algorithm>

#include "sdk/support/files/files.hpp"

namespace pintle::cri {
namespace {

constexpr int kMaxServers = 3;
constexpr int kMaxSearches = 32;
constexpr size_t kMaxSearchLength = 2048;
constexpr int kMaxOptions = 64;

bool is_word(std::string_view text) {
  return !text.empty() && text.size() <= 255 && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return c > 0x20 && c < 0x7f && c != '#' && c != ';';
  });
}

bool is_address(const std::string& text) {
  unsigned char bytes[16];
  // A link-local server needs its link: "fe80::1%eth0".
  const std::string address = text.substr(0, text.find('%'));
  return is_word(text) &&
         (::inet_pton(AF_INET, address.c_str(), bytes) == 1 || ::inet_pton(AF_INET6, address.c_str(), bytes) == 1);
}

}  // namespace

Status check_dns(const ::runtime::v1::DNSConfig& dns) {
  if (dns.servers_size() > kMaxServers) return invalid_argument("dns_config: resolv.conf takes at most 3 servers");
  if (dns.searches_size() > kMaxSearches) return invalid_argument("dns_config: at most 32 search domains");
  if (dns.options_size() > kMaxOptions) return invalid_argument("dns_config: at most 64 options");
  for (const std::string& server : dns.servers()) {
    if (!is_address(server)) return invalid_argument("dns_config: server \"" + server + "\" is no IP address");
  }
  size_t length = 0;
  for (const std::string& search : dns.searches()) {
    if (!is_word(search)) return invalid_argument("dns_config: search domain \"" + search + "\" is no domain name");
    length += search.size() + 1;
  }
  if (length > kMaxSearchLength)
    return invalid_argument("dns_config: the search domains exceed 2048 characters together");
  for (const std::string& option : dns.options()) {
    if (!is_word(option)) return invalid_argument("dns_config: option \"" + option + "\" is no single word");
  }
  return Status::ok();
}

std::string resolv_conf_text(const ::runtime::v1::DNSConfig& dns) {
  std::string text;
  const auto line = [&](std::string_view keyword, const auto& words) {
    if (words.empty()) return;
    text += keyword;
    for (const std::string& word : words) text += " " + word;
    text += "\n";
  };
  line("search", dns.searches());
  for (const std::string& server : dns.servers()) text += "nameserver " + server + "\n";
  line("options", dns.options());
  return text;
}

std::string node_resolv_conf() {
  const Result<std::string> own = files::read_file("/etc/resolv.conf");
  if (own && own->find("nameserver 127.0.0.53") == std::string::npos) return *own;
  const Result<std::string> behind = files::read_file("/run/systemd/resolve/resolv.conf");
  return behind ? *behind : own ? *own : "";
}

std::string hosts_text(std::string_view hostname, const std::vector<std::string>& addresses) {
  std::string text =
      "127.0.0.1\tlocalhost\n"
      "::1\tlocalhost ip6-localhost ip6-loopback\n"
      "fe00::0\tip6-localnet\n"
      "ff02::1\tip6-allnodes\n"
      "ff02::2\tip6-allrouters\n";
  if (!hostname.empty()) {
    for (const std::string& address : addresses) text += address + "\t" + std::string(hostname) + "\n";
  }
  return text;
}

}  // namespace pintle::cri
