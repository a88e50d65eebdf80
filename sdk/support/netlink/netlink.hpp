#pragma once

/// Netlink: the conversation with the kernel about links, addresses, routes and packet filters.
///
/// What it is. A thin typed layer on libmnl. A `Batch` is one or several requests, written one behind the other; a
/// `Socket` sends it in one system call and collects the kernel's answers; a `Monitor` hears what changes, whoever
/// changes it. The vocabulary of rtnetlink stands in links.hpp, addresses.hpp and routes.hpp as functions that append
/// to a batch or dump what there is; nftables has its own library on top (sdk/support/nftables).
///
/// Namespaces. A socket belongs for ever to the network namespace of the thread that opened it and may be used from any
/// thread, one at a time. To act elsewhere, open one in there: `run_in_namespace` (namespaces.hpp) does that on a
/// thread that ends there, for 0.05 ms.
///
/// Batches. rtnetlink runs the requests of one send in order, each on its own: a later one runs although an earlier one
/// failed, and a name that an earlier request created is known to the next. So a batch saves system calls and keeps a
/// kill of the process from falling between two requests, but it is no transaction (nftables' batches are, between
/// their marks).
///
/// Errors. Each request asks for an acknowledgement. A refusal becomes a `Status` that names the request, the kernel's
/// own words (extended acknowledgement, NLMSGERR_ATTR_MSG) and the errno. EEXIST, ENOENT and ENODEV become
/// ALREADY_EXISTS and NOT_FOUND, so that idempotent callers test the code.
///
///     Result<Socket> socket = Socket::open(NETLINK_ROUTE);
///     Batch batch;
///     add_bridge(batch, {.name = "pintle0", .mtu = 1500, .up = true});
///     add_address(batch, index, *IpPrefix::parse("10.85.0.1/16"));
///     Status status = socket->send(batch);
///
/// Sources: netlink(7), rtnetlink(7), linux/netlink.h; Documentation/userspace-api/netlink of the kernel.

#include <linux/netlink.h>

#include <cstdint>
#include <functional>
#include <pintle/buffer.hpp>
#include <pintle/status.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pintle::netlink {

/// Requests under construction. Attributes go to the request that was begun last.
class Batch {
 public:
  /// Begins a request. `flags` besides NLM_F_REQUEST and NLM_F_ACK, which every request has. `what` is for errors:
  /// "create bridge pintle0".
  template <class Header>
  void begin(uint16_t type, uint16_t flags, const Header& header, std::string what) {
    begin_bytes(type, flags, {reinterpret_cast<const uint8_t*>(&header), sizeof header}, std::move(what));
  }
  void put(uint16_t attribute, std::span<const uint8_t> bytes);
  void put_u8(uint16_t attribute, uint8_t value);
  void put_u16(uint16_t attribute, uint16_t value);
  void put_u32(uint16_t attribute, uint32_t value);
  /// With its terminating zero, as rtnetlink wants names.
  void put_text(uint16_t attribute, std::string_view text);
  /// Opens a nested attribute; `end_nest` with the returned mark closes it.
  size_t begin_nest(uint16_t attribute);
  void end_nest(size_t mark);
  /// A bare structure inside of a nest, as VETH_INFO_PEER begins with an ifinfomsg.
  template <class Header>
  void put_header(const Header& header) {
    append({reinterpret_cast<const uint8_t*>(&header), sizeof header});
  }

  bool empty() const { return starts_.empty(); }
  size_t size() const { return starts_.size(); }
  const std::string& what(size_t request) const { return whats_[request]; }

 private:
  friend class Socket;
  void begin_bytes(uint16_t type, uint16_t flags, std::span<const uint8_t> header, std::string what);
  void append(std::span<const uint8_t> bytes);
  void grew();
  nlmsghdr* request(size_t index) { return reinterpret_cast<nlmsghdr*>(bytes_.data() + starts_[index]); }

  std::vector<uint8_t> bytes_;
  std::vector<size_t> starts_;
  std::vector<std::string> whats_;
};

/// The attributes of a received message, by type. Views into the message.
class Attributes {
 public:
  /// `offset`: what stands before the attributes (the family's header). Malformed tails are ignored.
  Attributes(const nlmsghdr& message, size_t offset);
  explicit Attributes(std::span<const uint8_t> bytes);
  bool has(uint16_t attribute) const { return !get(attribute).empty(); }
  /// The attribute's payload; empty if there is none.
  std::span<const uint8_t> get(uint16_t attribute) const;
  /// The payloads of all attributes of that type, in their order.
  std::vector<std::span<const uint8_t>> all(uint16_t attribute) const;
  uint32_t u32(uint16_t attribute, uint32_t absent = 0) const;
  uint16_t u16(uint16_t attribute, uint16_t absent = 0) const;
  uint8_t u8(uint16_t attribute, uint8_t absent = 0) const;
  std::string text(uint16_t attribute) const;

 private:
  std::span<const uint8_t> bytes_;
};

/// A received message's fixed header, or null if the message is too short for it.
template <class Header>
const Header* payload_header(const nlmsghdr& message) {
  if (message.nlmsg_len < NLMSG_LENGTH(sizeof(Header))) return nullptr;
  return reinterpret_cast<const Header*>(reinterpret_cast<const uint8_t*>(&message) + NLMSG_HDRLEN);
}

/// A netlink socket that asks and waits for the answer. Any thread, one at a time. Netlink answers while it is being
/// sent to, so calls last as long as the kernel works (and waits for its locks), with ten seconds as the limit.
class Socket {
 public:
  using OnMessage = std::function<void(const nlmsghdr&)>;

  /// In the network namespace of the calling thread. `protocol`: NETLINK_ROUTE, NETLINK_NETFILTER.
  static Result<Socket> open(int protocol);

  /// Sends all requests in one call; the result has the status of each, in order.
  std::vector<Status> send_each(Batch& batch);
  /// The same; the first failure, or ok. Requests behind a failed one have run all the same.
  Status send(Batch& batch);
  /// Sends one request and hands over what it answers: a dump's messages, or the one object that was asked for. A dump
  /// that was interrupted by a change (NLM_F_DUMP_INTR) is ABORTED: ask again.
  Status query(Batch& request, const OnMessage& on_message);

  /// For protocols with their own framing (nftables): sends raw messages, then reads answers until `done` says so.
  Status exchange(std::span<const uint8_t> messages, const std::function<bool(const nlmsghdr&)>& done);
  /// A number for nlmsg_seq; never 0.
  uint32_t next_sequence();
  int descriptor() const { return fd_.get(); }
  /// What the kernel calls this socket in the changes that it tells of (nlmsg_pid), so that one's own are known.
  uint32_t port() const { return port_; }

 private:
  Socket(UniqueFd fd, uint32_t port) : fd_(std::move(fd)), port_(port) {}
  Status transmit(std::span<const uint8_t> messages);
  /// Reads one datagram into `answer_`, however large.
  Result<size_t> receive(int flags);

  UniqueFd fd_;
  uint32_t port_;
  uint32_t sequence_ = 0;
  std::vector<uint8_t> answer_;
};

/// Lists objects: `append` turns each message into items. A dump that changes interrupted starts anew, ten times at
/// most.
template <class Item, class Header, class Append>
Result<std::vector<Item>> dump(Socket& socket, uint16_t type, const Header& header, const std::string& what,
                               const Append& append) {
  Status status;
  for (int attempt = 0; attempt < 10; ++attempt) {
    std::vector<Item> items;
    Batch request;
    request.begin(type, NLM_F_DUMP, header, what);
    status = socket.query(request, [&](const nlmsghdr& message) { append(message, items); });
    if (status) return items;
    if (status.code() != Code::aborted) break;
  }
  return status;
}

/// Hears multicast groups. Readable when something changed.
class Monitor {
 public:
  /// In the network namespace of the calling thread. `groups`: RTNLGRP_LINK, NFNLGRP_NFTABLES, ...
  static Result<Monitor> open(int protocol, std::span<const uint32_t> groups);
  /// For poll(2).
  int descriptor() const { return fd_.get(); }
  /// Hands over all that has come, without waiting. False when messages were lost (more changes than the buffer holds):
  /// look at everything.
  bool drain(const std::function<void(const nlmsghdr&)>& on_message);

 private:
  explicit Monitor(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
  std::vector<uint8_t> buffer_;
};

/// The status of an NLMSG_ERROR message: ok for an acknowledgement, else errno with the kernel's own words.
Status status_of_answer(const nlmsghdr& message, std::string_view what);

}  // namespace pintle::netlink
