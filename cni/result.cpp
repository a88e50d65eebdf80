#include "cni/result.hpp"

#include <boost/json.hpp>

#include "cni/protocol.hpp"

namespace pintle::cni {
namespace {

namespace json = boost::json;
using netlink::IpAddress;
using netlink::IpPrefix;

Status wrong(std::string_view key, std::string_view why) {
  return invalid_argument("CNI result, '" + std::string(key) + "': " + std::string(why));
}

/// The list under a key; nothing there counts as an empty one.
Result<const json::array*> list_of(const json::object& object, std::string_view key) {
  static const json::array empty;
  const json::value* value = object.if_contains(key);
  if (!value || value->is_null()) return &empty;
  if (!value->is_array()) return wrong(key, "a list is expected");
  return &value->get_array();
}

Result<std::string> text_of(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  if (!value || value->is_null()) return std::string();
  if (!value->is_string()) return wrong(key, "a text is expected");
  return std::string(value->get_string());
}

Result<std::vector<std::string>> texts_of(const json::object& object, std::string_view key) {
  const Result<const json::array*> list = list_of(object, key);
  if (!list) return list.status();
  std::vector<std::string> texts;
  for (const json::value& value : **list) {
    if (!value.is_string()) return wrong(key, "a list of texts is expected");
    texts.emplace_back(value.get_string());
  }
  return texts;
}

Result<std::optional<IpAddress>> gateway_of(const json::object& object, std::string_view key) {
  const Result<std::string> text = text_of(object, key);
  if (!text) return text.status();
  if (text->empty()) return std::optional<IpAddress>();
  const Result<IpAddress> address = IpAddress::parse(*text);
  if (!address) return wrong(key, address.status().message());
  return std::optional(*address);
}

Result<IpPrefix> prefix_of(const json::object& object, std::string_view key) {
  const Result<std::string> text = text_of(object, key);
  if (!text) return text.status();
  const Result<IpPrefix> prefix = IpPrefix::parse(*text);
  if (!prefix) return wrong(key, prefix.status().message());
  return *prefix;
}

Result<ResultInterface> parse_interface(const json::object& object) {
  ResultInterface interface;
  const Result<std::string> name = text_of(object, "name");
  if (!name) return name.status();
  const Result<std::string> mac = text_of(object, "mac");
  if (!mac) return mac.status();
  const Result<std::string> sandbox = text_of(object, "sandbox");
  if (!sandbox) return sandbox.status();
  interface.name = *name;
  interface.sandbox = *sandbox;
  if (!mac->empty()) {
    const Result<netlink::HardwareAddress> address = netlink::parse_hardware_address(*mac);
    if (!address) return wrong("mac", address.status().message());
    interface.mac = *address;
  }
  if (const json::value* mtu = object.if_contains("mtu")) {
    boost::system::error_code error;
    interface.mtu = mtu->to_number<uint32_t>(error);
    if (error) return wrong("mtu", "a number of bytes is expected");
  }
  return interface;
}

Result<ResultIp> parse_ip(const json::object& object) {
  const Result<IpPrefix> address = prefix_of(object, "address");
  if (!address) return address.status();
  const auto gateway = gateway_of(object, "gateway");
  if (!gateway) return gateway.status();
  ResultIp ip{.address = *address, .gateway = *gateway, .interface = {}};
  if (const json::value* index = object.if_contains("interface")) {
    boost::system::error_code error;
    ip.interface = index->to_number<uint32_t>(error);
    if (error) return wrong("interface", "an index into 'interfaces' is expected");
  }
  return ip;
}

Result<ResultRoute> parse_route(const json::object& object) {
  const Result<IpPrefix> destination = prefix_of(object, "dst");
  if (!destination) return destination.status();
  const auto gateway = gateway_of(object, "gw");
  if (!gateway) return gateway.status();
  return ResultRoute{.destination = *destination, .gateway = *gateway};
}

/// Each object of the list under a key, by a parser of its own.
template <class Item>
Status parse_each(const json::object& object, std::string_view key, Result<Item> (*parse)(const json::object&),
                  std::vector<Item>& items) {
  const Result<const json::array*> list = list_of(object, key);
  if (!list) return list.status();
  for (const json::value& value : **list) {
    if (!value.is_object()) return wrong(key, "a list of objects is expected");
    Result<Item> item = parse(value.get_object());
    if (!item) return item.status();
    items.push_back(std::move(*item));
  }
  return Status::ok();
}

json::array to_json(const std::vector<std::string>& texts) { return json::array(texts.begin(), texts.end()); }

}  // namespace

json::object to_json(const AddResult& result, std::string_view version) {
  json::object object{{"cniVersion", version}};
  json::array interfaces;
  for (const ResultInterface& interface : result.interfaces) {
    json::object item{{"name", interface.name}};
    if (interface.mac != netlink::HardwareAddress{}) item["mac"] = netlink::to_string(interface.mac);
    if (interface.mtu != 0) item["mtu"] = interface.mtu;
    if (!interface.sandbox.empty()) item["sandbox"] = interface.sandbox;
    interfaces.push_back(std::move(item));
  }
  json::array ips;
  for (const ResultIp& ip : result.ips) {
    json::object item{{"address", ip.address.to_string()}};
    if (!is_at_least(version, "1.0.0")) item["version"] = ip.address.address().is_v6() ? "6" : "4";
    if (ip.gateway) item["gateway"] = ip.gateway->to_string();
    if (ip.interface) item["interface"] = *ip.interface;
    ips.push_back(std::move(item));
  }
  json::array routes;
  for (const ResultRoute& route : result.routes) {
    json::object item{{"dst", route.destination.to_string()}};
    if (route.gateway) item["gw"] = route.gateway->to_string();
    routes.push_back(std::move(item));
  }
  json::object dns;
  if (!result.dns.nameservers.empty()) dns["nameservers"] = to_json(result.dns.nameservers);
  if (!result.dns.domain.empty()) dns["domain"] = result.dns.domain;
  if (!result.dns.search.empty()) dns["search"] = to_json(result.dns.search);
  if (!result.dns.options.empty()) dns["options"] = to_json(result.dns.options);
  if (!interfaces.empty()) object["interfaces"] = std::move(interfaces);
  if (!ips.empty()) object["ips"] = std::move(ips);
  if (!routes.empty()) object["routes"] = std::move(routes);
  if (!dns.empty()) object["dns"] = std::move(dns);
  return object;
}

Result<AddResult> parse_add_result(const json::value& value) {
  if (!value.is_object()) return wrong("", "an object is expected");
  const json::object& object = value.get_object();
  AddResult result;
  if (Status status = parse_each(object, "interfaces", parse_interface, result.interfaces); !status) return status;
  if (Status status = parse_each(object, "ips", parse_ip, result.ips); !status) return status;
  if (Status status = parse_each(object, "routes", parse_route, result.routes); !status) return status;
  for (const ResultIp& ip : result.ips) {
    if (ip.interface && *ip.interface >= result.interfaces.size())
      return wrong("interface", "there is no such interface");
  }
  const json::value* dns = object.if_contains("dns");
  if (!dns || dns->is_null()) return result;
  if (!dns->is_object()) return wrong("dns", "an object is expected");
  const auto nameservers = texts_of(dns->get_object(), "nameservers");
  if (!nameservers) return nameservers.status();
  const auto domain = text_of(dns->get_object(), "domain");
  if (!domain) return domain.status();
  const auto search = texts_of(dns->get_object(), "search");
  if (!search) return search.status();
  const auto options = texts_of(dns->get_object(), "options");
  if (!options) return options.status();
  result.dns = {.nameservers = *nameservers, .domain = *domain, .search = *search, .options = *options};
  return result;
}

}  // namespace pintle::cni
