#include "cni/bridge/attachments.hpp"

#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <cstdio>
#include <sstream>

namespace pintle::bridge {
namespace {

namespace json = boost::json;

constexpr std::string_view kNamePrefix = "pod";
constexpr size_t kNameDigits = 12;
constexpr std::string_view kMarkTitle = "pintle";
constexpr size_t kLongestAlias = 255;
constexpr size_t kHostEnd = 0, kPodEnd = 1;  // of a result's interfaces

/// FNV-1a: 48 of its bits name a link, which 10,000 pods share by accident once in five million times.
uint64_t hash(std::string_view text) {
  uint64_t value = 0xcbf29ce484222325;
  for (const char c : text) value = (value ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  return value;
}

std::string record_name(const Attachment& attachment) { return attachment.host_interface + ".json"; }

}  // namespace

cni::AddResult Attachment::result() const {
  cni::AddResult result{.interfaces = {{.name = host_interface, .mac = {}, .mtu = mtu, .sandbox = ""},
                                       {.name = interface, .mac = hardware_address, .mtu = mtu, .sandbox = name_space}},
                        .ips = ips,
                        .routes = routes,
                        .dns = {}};
  for (cni::ResultIp& ip : result.ips) ip.interface = kPodEnd;
  return result;
}

PortClaim Attachment::claim() const {
  PortClaim claim{.sandbox = sandbox, .addresses = {}, .ports = ports};
  for (const cni::ResultIp& ip : ips) claim.addresses.push_back(ip.address.address());
  return claim;
}

std::string host_interface_name(std::string_view sandbox, std::string_view interface) {
  char digits[17];
  const uint64_t value = hash(std::string(sandbox) + "/" + std::string(interface));
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(value));
  return std::string(kNamePrefix) + std::string(digits).substr(16 - kNameDigits);
}

bool is_host_interface_name(std::string_view name) {
  return name.size() == kNamePrefix.size() + kNameDigits && name.starts_with(kNamePrefix) &&
         name.find_first_not_of("0123456789abcdef", kNamePrefix.size()) == std::string_view::npos;
}

std::string write_mark(std::string_view holder, const Attachment& attachment) {
  std::string mark(kMarkTitle);
  mark += " " + std::string(holder) + " " + attachment.sandbox + " " + attachment.interface + " ";
  std::string addresses;
  for (const cni::ResultIp& ip : attachment.ips) addresses += (addresses.empty() ? "" : ",") + ip.address.to_string();
  mark += addresses;
  if (mark.size() + 1 + attachment.name_space.size() <= kLongestAlias) mark += " " + attachment.name_space;
  return mark.substr(0, kLongestAlias);
}

std::optional<Mark> read_mark(std::string_view alias) {
  std::istringstream words{std::string(alias)};
  std::string title, addresses;
  Mark mark;
  if (!(words >> title >> mark.holder >> mark.sandbox >> mark.interface >> addresses) || title != kMarkTitle) {
    return std::nullopt;
  }
  words >> mark.name_space;
  std::istringstream list(addresses);
  for (std::string text; std::getline(list, text, ',');) {
    const Result<netlink::IpPrefix> prefix = netlink::IpPrefix::parse(text);
    if (!prefix) return std::nullopt;
    mark.addresses.push_back(*prefix);
  }
  return mark;
}

std::string write_record(const Attachment& attachment) {
  json::object record{{"version", 1}, {"sandbox", attachment.sandbox}, {"result", to_json(attachment.result())}};
  if (!attachment.ports.empty()) record["hostPorts"] = to_json(attachment.ports);
  return json::serialize(record) + "\n";
}

Result<Attachment> read_record(std::string_view text) {
  boost::system::error_code error;
  const json::value document = json::parse(text, error);
  if (error || !document.is_object()) return data_loss("it is no JSON object");
  const json::object& object = document.get_object();
  const json::value* version = object.if_contains("version");
  const json::value* sandbox = object.if_contains("sandbox");
  const json::value* result_value = object.if_contains("result");
  if (!version || *version != 1) return data_loss("its version is not 1");
  if (!sandbox || !sandbox->is_string() || !result_value) return data_loss("'sandbox' or 'result' is missing");
  Result<cni::AddResult> result = cni::parse_add_result(*result_value);
  if (!result) return data_loss(result.status().message());
  if (result->interfaces.size() != 2 || result->ips.empty())
    return data_loss("two interfaces and an address are expected");
  const cni::ResultInterface& pod = result->interfaces[kPodEnd];
  Attachment attachment{.sandbox = std::string(sandbox->get_string()),
                        .interface = pod.name,
                        .host_interface = result->interfaces[kHostEnd].name,
                        .name_space = pod.sandbox,
                        .hardware_address = pod.mac,
                        .mtu = pod.mtu,
                        .ips = result->ips,
                        .routes = result->routes,
                        .ports = {}};
  if (const json::value* value = object.if_contains("hostPorts")) {
    Result<std::vector<HostPort>> ports = parse_host_ports(*value);
    if (!ports) return ports.status();
    attachment.ports = std::move(*ports);
  }
  if (attachment.host_interface != host_interface_name(attachment.sandbox, attachment.interface)) {
    return data_loss("its interface is not that of its sandbox");
  }
  return attachment;
}

Result<Records> Records::open(const std::string& folder) {
  if (Status made = files::make_folders(folder); !made) return made;
  Result<files::Descriptor> descriptor = files::open_folder(folder);
  if (!descriptor) return descriptor.status();
  return Records(std::move(*descriptor), folder);
}

Result<std::vector<Attachment>> Records::load(std::vector<std::string>& damaged) {
  const Result<std::vector<std::string>> names = files::list_folder(folder_.get());
  if (!names) return names.status();
  std::vector<Attachment> attachments;
  for (const std::string& name : *names) {
    // What a kill left aside, not yet renamed, was never a record.
    if (name.starts_with('.')) unlinkat(folder_.get(), name.c_str(), 0);
    if (name.starts_with('.') || !name.ends_with(".json")) continue;
    const Result<std::string> text = files::read_file(folder_.get(), name);
    if (!text) return text.status();
    Result<Attachment> attachment = read_record(*text);
    if (attachment && record_name(*attachment) == name) {
      attachments.push_back(std::move(*attachment));
      continue;
    }
    const std::string why = attachment ? "its name is not that of its interface" : attachment.status().message();
    renameat(folder_.get(), name.c_str(), folder_.get(), (name + ".damaged").c_str());
    damaged.push_back(path_ + "/" + name + ": " + why);
  }
  return attachments;
}

std::vector<Attachment> Records::peek(const std::string& folder) {
  std::vector<Attachment> attachments;
  const Result<files::Descriptor> descriptor = files::open_folder(folder);
  if (!descriptor) return attachments;
  const Result<std::vector<std::string>> names = files::list_folder(descriptor->get());
  for (const std::string& name : names ? *names : std::vector<std::string>()) {
    if (name.starts_with('.') || !name.ends_with(".json")) continue;
    const Result<std::string> text = files::read_file(descriptor->get(), name);
    Result<Attachment> attachment = text ? read_record(*text) : text.status();
    if (attachment) attachments.push_back(std::move(*attachment));
  }
  return attachments;
}

Status Records::save(const Attachment& attachment) {
  return files::write_file(folder_.get(), record_name(attachment), write_record(attachment), files::Durability::cached)
      .with_context("record the attachment of sandbox " + attachment.sandbox);
}

Status Records::remove(const Attachment& attachment) {
  if (unlinkat(folder_.get(), record_name(attachment).c_str(), 0) == 0 || errno == ENOENT) return Status::ok();
  return status_from_errno(errno, "remove " + path_ + "/" + record_name(attachment));
}

}  // namespace pintle::bridge
