#include <libmnl/libmnl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "sdk/support/netlink/netlink.hpp"

namespace pintle::netlink {
namespace {

constexpr int kReceiveBuffer = 4 << 20;
constexpr timeval kPatience = {.tv_sec = 10, .tv_usec = 0};

/// Beyond the limits of the system where the process may; a smaller buffer is no error, it only loses messages earlier.
void set_buffer(int fd, int forced, int ordinary, int bytes) {
  if (setsockopt(fd, SOL_SOCKET, forced, &bytes, sizeof bytes) != 0) {
    setsockopt(fd, SOL_SOCKET, ordinary, &bytes, sizeof bytes);
  }
}

Result<UniqueFd> open_socket(int protocol, bool non_blocking) {
  UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | (non_blocking ? SOCK_NONBLOCK : 0), protocol));
  if (!fd) return status_from_errno(errno, "open a netlink socket of protocol " + std::to_string(protocol));
  const int on = 1;
  setsockopt(fd.get(), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on);
  setsockopt(fd.get(), SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on);
  setsockopt(fd.get(), SOL_NETLINK, NETLINK_GET_STRICT_CHK, &on, sizeof on);
  set_buffer(fd.get(), SO_RCVBUFFORCE, SO_RCVBUF, kReceiveBuffer);
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof kPatience);
  const sockaddr_nl self{.nl_family = AF_NETLINK};
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&self), sizeof self) != 0) {
    return status_from_errno(errno, "bind a netlink socket");
  }
  return fd;
}

template <class Function>
void for_each_message(std::span<const uint8_t> datagram, const Function& function) {
  const auto* message = reinterpret_cast<const nlmsghdr*>(datagram.data());
  auto left = static_cast<int>(datagram.size());
  while (mnl_nlmsg_ok(message, left)) {
    if (!function(*message)) return;
    message = mnl_nlmsg_next(message, &left);
  }
}

}  // namespace

// ---- Batch
// ----------------------------------------------------------------------------------------------------------------

void Batch::begin_bytes(uint16_t type, uint16_t flags, std::span<const uint8_t> header, std::string what) {
  starts_.push_back(bytes_.size());
  whats_.push_back(std::move(what));
  const nlmsghdr message{
      .nlmsg_len = 0, .nlmsg_type = type, .nlmsg_flags = static_cast<uint16_t>(flags | NLM_F_REQUEST)};
  append({reinterpret_cast<const uint8_t*>(&message), sizeof message});
  append(header);
}

void Batch::append(std::span<const uint8_t> bytes) {
  bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  bytes_.resize(MNL_ALIGN(bytes_.size()));
  grew();
}

void Batch::grew() { request(starts_.size() - 1)->nlmsg_len = static_cast<uint32_t>(bytes_.size() - starts_.back()); }

void Batch::put(uint16_t attribute, std::span<const uint8_t> bytes) {
  const nlattr header{.nla_len = static_cast<uint16_t>(MNL_ATTR_HDRLEN + bytes.size()), .nla_type = attribute};
  const auto* raw = reinterpret_cast<const uint8_t*>(&header);
  bytes_.insert(bytes_.end(), raw, raw + sizeof header);
  append(bytes);
}

void Batch::put_u8(uint16_t attribute, uint8_t value) { put(attribute, {&value, 1}); }

void Batch::put_u16(uint16_t attribute, uint16_t value) {
  put(attribute, {reinterpret_cast<const uint8_t*>(&value), sizeof value});
}

void Batch::put_u32(uint16_t attribute, uint32_t value) {
  put(attribute, {reinterpret_cast<const uint8_t*>(&value), sizeof value});
}

void Batch::put_text(uint16_t attribute, std::string_view text) {
  std::vector<uint8_t> terminated(text.begin(), text.end());
  terminated.push_back(0);
  put(attribute, terminated);
}

size_t Batch::begin_nest(uint16_t attribute) {
  const size_t mark = bytes_.size();
  put(static_cast<uint16_t>(attribute | NLA_F_NESTED), {});
  return mark;
}

void Batch::end_nest(size_t mark) {
  reinterpret_cast<nlattr*>(bytes_.data() + mark)->nla_len = static_cast<uint16_t>(bytes_.size() - mark);
}

// ---- Attributes
// -----------------------------------------------------------------------------------------------------------

Attributes::Attributes(const nlmsghdr& message, size_t offset) {
  const size_t start = NLMSG_HDRLEN + MNL_ALIGN(offset);
  if (message.nlmsg_len > start) {
    bytes_ = {reinterpret_cast<const uint8_t*>(&message) + start, message.nlmsg_len - start};
  }
}

Attributes::Attributes(std::span<const uint8_t> bytes) : bytes_(bytes) {}

/// The next attribute of that type, which is taken off `rest` with all before it; an empty pointer at the end.
static std::span<const uint8_t> take_next(std::span<const uint8_t>& rest, uint16_t attribute) {
  while (rest.size() >= sizeof(nlattr)) {
    nlattr header;
    std::memcpy(&header, rest.data(), sizeof header);
    if (header.nla_len < sizeof header || header.nla_len > rest.size()) break;
    const auto payload = rest.subspan(sizeof header, header.nla_len - sizeof header);
    rest = rest.subspan(std::min<size_t>(MNL_ALIGN(header.nla_len), rest.size()));
    if ((header.nla_type & NLA_TYPE_MASK) == attribute) return payload;
  }
  return {};
}

std::span<const uint8_t> Attributes::get(uint16_t attribute) const {
  std::span<const uint8_t> rest = bytes_;
  return take_next(rest, attribute);
}

std::vector<std::span<const uint8_t>> Attributes::all(uint16_t attribute) const {
  std::vector<std::span<const uint8_t>> found;
  std::span<const uint8_t> rest = bytes_;
  for (auto payload = take_next(rest, attribute); payload.data(); payload = take_next(rest, attribute)) {
    found.push_back(payload);
  }
  return found;
}

uint32_t Attributes::u32(uint16_t attribute, uint32_t absent) const {
  const auto bytes = get(attribute);
  uint32_t value = absent;
  if (bytes.size() >= sizeof value) std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

uint16_t Attributes::u16(uint16_t attribute, uint16_t absent) const {
  const auto bytes = get(attribute);
  uint16_t value = absent;
  if (bytes.size() >= sizeof value) std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

uint8_t Attributes::u8(uint16_t attribute, uint8_t absent) const {
  const auto bytes = get(attribute);
  return bytes.empty() ? absent : bytes[0];
}

std::string Attributes::text(uint16_t attribute) const {
  const auto bytes = get(attribute);
  return {bytes.begin(), std::find(bytes.begin(), bytes.end(), 0)};
}

// ---- Socket
// ---------------------------------------------------------------------------------------------------------------

Status status_of_answer(const nlmsghdr& message, std::string_view what) {
  const auto* error = payload_header<nlmsgerr>(message);
  if (!error) return internal_error(std::string(what) + ": the kernel's answer is too short");
  if (error->error == 0) return Status::ok();

  std::string context(what);
  if (message.nlmsg_flags & NLM_F_ACK_TLVS) {
    size_t offset = sizeof *error;
    if (!(message.nlmsg_flags & NLM_F_CAPPED)) offset += NLMSG_ALIGN(error->msg.nlmsg_len) - sizeof(nlmsghdr);
    const std::string words = Attributes(message, offset).text(NLMSGERR_ATTR_MSG);
    if (!words.empty()) context += ": " + words;
  }
  // How the kernel says that the address to delete is not there.
  if (error->error == -EADDRNOTAVAIL) return not_found(context + ": no such address");
  return status_from_errno(-error->error, context);
}

Result<Socket> Socket::open(int protocol) {
  Result<UniqueFd> fd = open_socket(protocol, false);
  if (!fd) return fd.status();
  sockaddr_nl self{};
  socklen_t size = sizeof self;
  if (getsockname(fd->get(), reinterpret_cast<sockaddr*>(&self), &size) != 0) {
    return status_from_errno(errno, "ask a netlink socket for its port");
  }
  return Socket(std::move(*fd), self.nl_pid);
}

uint32_t Socket::next_sequence() {
  if (++sequence_ == 0) ++sequence_;
  return sequence_;
}

Status Socket::transmit(std::span<const uint8_t> messages) {
  if (messages.size() > 64 << 10) {
    set_buffer(fd_.get(), SO_SNDBUFFORCE, SO_SNDBUF, static_cast<int>(messages.size() * 2));
  }
  const sockaddr_nl kernel{.nl_family = AF_NETLINK};
  ssize_t sent = 0;
  do {
    sent = sendto(fd_.get(), messages.data(), messages.size(), 0, reinterpret_cast<const sockaddr*>(&kernel),
                  sizeof kernel);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return status_from_errno(errno, "send " + std::to_string(messages.size()) + " bytes by netlink");
  return Status::ok();
}

Result<size_t> Socket::receive(int flags) {
  while (true) {
    const ssize_t size = recv(fd_.get(), nullptr, 0, MSG_PEEK | MSG_TRUNC | flags);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0 && errno == EAGAIN && flags == 0) {
      return deadline_exceeded("the kernel did not answer by netlink for " + std::to_string(kPatience.tv_sec) +
                               " seconds");
    }
    if (size < 0) return status_from_errno(errno, "read a netlink answer");
    if (answer_.size() < static_cast<size_t>(size))
      answer_.resize(std::max<size_t>(static_cast<size_t>(size), 32 << 10));
    const ssize_t got = recv(fd_.get(), answer_.data(), answer_.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return status_from_errno(errno, "read a netlink answer");
    return static_cast<size_t>(got);
  }
}

std::vector<Status> Socket::send_each(Batch& batch) {
  std::vector<Status> results(batch.size());
  if (batch.empty()) return results;
  const uint32_t first = sequence_ + 1;
  for (size_t i = 0; i < batch.size(); ++i) {
    batch.request(i)->nlmsg_seq = next_sequence();
    batch.request(i)->nlmsg_flags |= NLM_F_ACK;
  }
  size_t open = batch.size();
  const Status failure = exchange(batch.bytes_, [&](const nlmsghdr& message) {
    const uint32_t index = message.nlmsg_seq - first;
    if (message.nlmsg_type != NLMSG_ERROR || index >= results.size()) return false;
    results[index] = status_of_answer(message, batch.what(index));
    return --open == 0;
  });
  if (!failure) std::fill(results.begin(), results.end(), failure.with_context(batch.what(0)));
  return results;
}

Status Socket::send(Batch& batch) {
  for (Status& status : send_each(batch)) {
    if (!status) return std::move(status);
  }
  return Status::ok();
}

Status Socket::query(Batch& batch, const OnMessage& on_message) {
  nlmsghdr* request = batch.request(0);
  const bool dump = (request->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
  const uint32_t sequence = request->nlmsg_seq = next_sequence();
  Status result;
  const Status failure = exchange(batch.bytes_, [&](const nlmsghdr& message) {
    if (message.nlmsg_seq != sequence) return false;
    if (message.nlmsg_flags & NLM_F_DUMP_INTR) {
      result = Status(Code::aborted, batch.what(0) + ": what was listed changed meanwhile; ask again");
    }
    if (message.nlmsg_type == NLMSG_ERROR) {
      result = status_of_answer(message, batch.what(0));
      return true;
    }
    if (message.nlmsg_type == NLMSG_DONE) return true;
    on_message(message);
    return !dump;
  });
  return failure ? result : failure.with_context(batch.what(0));
}

Status Socket::exchange(std::span<const uint8_t> messages, const std::function<bool(const nlmsghdr&)>& done) {
  // What an earlier exchange left behind after it had given up must not be taken for an answer to this one.
  while (receive(MSG_DONTWAIT)) {
  }
  if (Status sent = transmit(messages); !sent) return sent;
  for (bool finished = false; !finished;) {
    Result<size_t> size = receive(0);
    if (!size) return size.status();
    for_each_message({answer_.data(), *size}, [&](const nlmsghdr& message) {
      finished = done(message);
      return !finished;
    });
  }
  return Status::ok();
}

// ---- Monitor
// --------------------------------------------------------------------------------------------------------------

Result<Monitor> Monitor::open(int protocol, std::span<const uint32_t> groups) {
  Result<UniqueFd> fd = open_socket(protocol, true);
  if (!fd) return fd.status();
  for (const uint32_t group : groups) {
    if (setsockopt(fd->get(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) != 0) {
      return status_from_errno(errno, "join netlink multicast group " + std::to_string(group));
    }
  }
  Monitor monitor(std::move(*fd));
  monitor.buffer_.resize(64 << 10);
  return monitor;
}

bool Monitor::drain(const std::function<void(const nlmsghdr&)>& on_message) {
  bool complete = true;
  while (true) {
    const ssize_t got = recv(fd_.get(), buffer_.data(), buffer_.size(), MSG_TRUNC);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == ENOBUFS) {
      complete = false;
      continue;
    }
    if (got < 0) return complete;
    if (static_cast<size_t>(got) > buffer_.size()) {
      complete = false;
      continue;
    }
    for_each_message({buffer_.data(), static_cast<size_t>(got)}, [&](const nlmsghdr& message) {
      on_message(message);
      return true;
    });
  }
}

}  // namespace pintle::netlink
