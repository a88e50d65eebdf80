#pragma once

/// What is attached: the record of each attachment on disk, and its mark on the machine.
///
/// A record is written before anything is made for the pod and removed when the pod is off the bridge, so that whatever a
/// kill leaves half done is known to the next start. It is not synced: links do not outlive the machine either.
///
/// The mark is the alias of the node's end of the veth: who made it, for which sandbox, with which addresses. When
/// records are lost, the marks tell the same story.

#include <optional>
#include <pintle/status.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "cni/bridge/host_ports.hpp"
#include "cni/result.hpp"
#include "sdk/support/files/files.hpp"
#include "sdk/support/netlink/links.hpp"

namespace pintle::bridge {

struct Attachment {
  std::string sandbox;
  std::string interface = "eth0";  ///< inside of the sandbox
  std::string host_interface;      ///< the other end, on the node
  std::string name_space;          ///< path; empty if it was learnt from a mark that had no room for it
  netlink::HardwareAddress hardware_address{};
  uint32_t mtu = 0;
  std::vector<cni::ResultIp> ips;  ///< the first is the primary one
  std::vector<cni::ResultRoute> routes;
  std::vector<HostPort> ports;

  cni::AddResult result() const;
  PortClaim claim() const;
};

/// The name of the node's end: the same for the same sandbox and interface, always.
std::string host_interface_name(std::string_view sandbox, std::string_view interface);
/// Whether a link of that name could be ours.
bool is_host_interface_name(std::string_view name);

/// The mark of a link, at most 255 bytes; the namespace's path is left out when there is no room.
std::string write_mark(std::string_view holder, const Attachment& attachment);
struct Mark {
  std::string holder;  ///< the key of the instance that made it
  std::string sandbox;
  std::string interface;
  std::vector<netlink::IpPrefix> addresses;
  std::string name_space;
};
/// Nothing for a text that is no mark of ours.
std::optional<Mark> read_mark(std::string_view alias);

/// The text of a record and back. DATA_LOSS says what is wrong with it.
std::string write_record(const Attachment& attachment);
Result<Attachment> read_record(std::string_view text);

/// The folder of records of one instance. Not thread-safe.
class Records {
 public:
  static Result<Records> open(const std::string& folder);
  /// All records. Those that cannot be read are set aside as NAME.damaged and named in `damaged`.
  Result<std::vector<Attachment>> load(std::vector<std::string>& damaged);
  Status save(const Attachment& attachment);
  /// The records of another instance as far as they can be read; touches nothing.
  static std::vector<Attachment> peek(const std::string& folder);
  /// Success as well if there is none.
  Status remove(const Attachment& attachment);

 private:
  Records(files::Descriptor folder, std::string path) : folder_(std::move(folder)), path_(std::move(path)) {}
  files::Descriptor folder_;
  std::string path_;
};

}  // namespace pintle::bridge
