#include "sdk/support/wire/wire.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <numeric>

#include "sdk/support/engine/message.hpp"

namespace pintle::wire {
namespace {

constexpr uint64_t memory_file = 1ull << 63;  // set in a part's length
constexpr uint64_t max_part = 1ull << 30;
constexpr size_t max_descriptors = PINTLE_MAX_DESCRIPTORS + max_parts;
constexpr size_t max_packet = sizeof(FrameHead) + max_parts * 8 + max_inline;
constexpr size_t max_queued_bytes = 16u << 20, max_queued_packets = 8192;

Result<files::Descriptor> sealed(Bytes bytes) {
  files::Descriptor file(memfd_create("pintle-part", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file.valid()) return status_from_errno(errno, "memfd_create");
  if (Status written = files::write_all(file.get(), bytes); !written) return written;
  if (Status sealed = files::seal(file.get()); !sealed) return sealed;
  return file;
}

}  // namespace

Frame::Mapping::~Mapping() {
  if (data != nullptr) munmap(const_cast<uint8_t*>(data), size);
}

Frame::Message::~Message() {
  for (pintle_buffer* buffer : buffers) buffer->release(buffer);
}

void Frame::message(size_t first, Message& keep) {
  const Bytes header = first < parts.size() ? parts[first] : Bytes();
  for (size_t i = first + 1; i < parts.size(); ++i) {
    auto mapped = std::find_if(mapped_.begin(), mapped_.end(), [&](const auto& m) { return m.first == i; });
    if (mapped != mapped_.end()) {
      auto* mapping = new Mapping(std::move(mapped->second));
      keep.buffers.push_back(engine::wrap_buffer(
          mapping->data, parts[i].size(), [](void* owned) { delete static_cast<Mapping*>(owned); }, mapping));
      continue;
    }
    uint8_t* data = nullptr;
    keep.buffers.push_back(engine::make_buffer(parts[i].size(), &data));
    if (!parts[i].empty()) std::memcpy(data, parts[i].data(), parts[i].size());
    engine::count_copied_bytes(parts[i].size());
  }
  for (const files::Descriptor& descriptor : descriptors) keep.descriptors.push_back(descriptor.get());
  keep.view = {sizeof(pintle_message),
               static_cast<uint32_t>(keep.buffers.size()),
               static_cast<uint32_t>(keep.descriptors.size()),
               0,
               reinterpret_cast<const uint8_t*>(header.data()),
               header.size(),
               keep.buffers.data(),
               keep.descriptors.data()};
}

Result<Frame> parse_frame(std::string packet, std::vector<files::Descriptor> descriptors) {
  Frame out;
  if (packet.size() < sizeof(FrameHead)) return invalid_argument("a frame is shorter than its head");
  std::memcpy(static_cast<void*>(&out.head), packet.data(), sizeof(FrameHead));
  const FrameHead& head = out.head;
  if (head.version != 1) return invalid_argument("a frame of another version");
  if (head.kind < FrameKind::hello || head.kind > FrameKind::exited)
    return invalid_argument("a frame of an unknown kind");
  if (head.parts > max_parts || packet.size() - sizeof head < head.parts * sizeof(uint64_t))
    return invalid_argument("a frame with a wrong number of parts");
  if (head.descriptors > PINTLE_MAX_DESCRIPTORS + 2 || head.descriptors > descriptors.size())
    return invalid_argument("a frame with a wrong number of descriptors");
  out.packet_ = std::move(packet);
  size_t at = sizeof head + head.parts * sizeof(uint64_t), next_file = head.descriptors;
  for (uint32_t i = 0; i < head.parts; ++i) {
    uint64_t length = 0;
    std::memcpy(&length, out.packet_.data() + sizeof head + i * sizeof length, sizeof length);
    if ((length & memory_file) == 0) {
      if (length > out.packet_.size() - at) return invalid_argument("a frame whose parts are longer than it");
      out.parts.emplace_back(out.packet_.data() + at, length);
      at += length;
      continue;
    }
    length &= ~memory_file;
    if (length == 0 || length > max_part || next_file >= descriptors.size())
      return invalid_argument("a frame with a wrong memory file");
    const int file = descriptors[next_file++].get();
    struct stat info {};
    if (!files::is_sealed(file) || fstat(file, &info) != 0 || static_cast<uint64_t>(info.st_size) < length)
      return invalid_argument("a frame with a memory file that is not sealed, or too short");
    void* mapped = mmap(nullptr, length, PROT_READ, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED) return status_from_errno(errno, "map a part");
    out.mapped_.emplace_back(i, Frame::Mapping(static_cast<const uint8_t*>(mapped), length));
    out.parts.emplace_back(static_cast<const char*>(mapped), length);
  }
  if (at != out.packet_.size() || next_file != descriptors.size())
    return invalid_argument("a frame with more than its head says");
  descriptors.resize(head.descriptors);
  out.descriptors = std::move(descriptors);
  return out;
}

std::string pack(const std::vector<std::string_view>& texts) {
  std::string out;
  for (std::string_view text : texts) {
    const auto size = static_cast<uint32_t>(text.size());
    out.append(reinterpret_cast<const char*>(&size), sizeof size).append(text);
  }
  return out;
}

Result<std::vector<std::string>> unpack(Bytes part) {
  std::vector<std::string> out;
  while (!part.empty()) {
    uint32_t size = 0;
    if (part.size() < sizeof size) return invalid_argument("a list of texts that is cut off");
    std::memcpy(&size, part.data(), sizeof size);
    part.remove_prefix(sizeof size);
    if (size > part.size()) return invalid_argument("a list of texts that is cut off");
    out.emplace_back(part.substr(0, size));
    part.remove_prefix(size);
  }
  return out;
}

bool Wire::send_now(std::span<const Bytes> pieces, std::span<const int32_t> descriptors, bool wait, int& error) {
  iovec vectors[max_parts + 2];
  for (size_t i = 0; i < pieces.size(); ++i) vectors[i] = {const_cast<char*>(pieces[i].data()), pieces[i].size()};
  alignas(cmsghdr) char control[CMSG_SPACE(max_descriptors * sizeof(int))];
  msghdr message{};
  message.msg_iov = vectors;
  message.msg_iovlen = pieces.size();
  if (!descriptors.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(head), descriptors.data(), descriptors.size_bytes());
  }
  while (sendmsg(socket_.get(), &message, MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT)) < 0) {
    if (errno == EINTR) continue;
    error = errno;
    return false;
  }
  return true;
}

Wire::Sent Wire::send(FrameHead head, std::span<const Bytes> parts, std::span<const int32_t> descriptors, bool wait) {
  if (parts.size() > max_parts || descriptors.size() > PINTLE_MAX_DESCRIPTORS + 2) return Sent::refused;
  head.parts = static_cast<uint32_t>(parts.size());
  head.descriptors = static_cast<uint16_t>(descriptors.size());
  uint64_t lengths[max_parts];
  Bytes pieces[max_parts + 2];
  size_t count = 2, room = max_inline;
  std::vector<files::Descriptor> memory;
  int32_t all[max_descriptors];
  size_t all_count = descriptors.size();
  std::copy(descriptors.begin(), descriptors.end(), all);
  for (size_t i = 0; i < parts.size(); ++i) {
    lengths[i] = parts[i].size();
    if (parts[i].size() <= room) {
      room -= parts[i].size();
      if (!parts[i].empty()) pieces[count++] = parts[i];
      continue;
    }
    Result<files::Descriptor> file = sealed(parts[i]);
    if (!file) return Sent::refused;
    engine::count_copied_bytes(parts[i].size());
    lengths[i] |= memory_file;
    all[all_count++] = file->get();
    memory.push_back(std::move(*file));
  }
  pieces[0] = Bytes(reinterpret_cast<const char*>(&head), sizeof head);
  pieces[1] = Bytes(reinterpret_cast<const char*>(lengths), parts.size() * sizeof lengths[0]);
  const std::span<const Bytes> all_pieces(pieces, count);
  const std::span<const int32_t> all_descriptors(all, all_count);
  std::lock_guard lock(lock_);
  int error = EAGAIN;
  if (queue_.empty() && send_now(all_pieces, all_descriptors, wait, error)) return Sent::yes;
  if (error != EAGAIN && error != ENOBUFS) return Sent::refused;
  const size_t size =
      std::accumulate(pieces, pieces + count, size_t{0}, [](size_t sum, Bytes piece) { return sum + piece.size(); });
  if (queued_bytes_ + size > max_queued_bytes || queue_.size() >= max_queued_packets) return Sent::refused;
  Packet packet;
  for (Bytes piece : all_pieces) packet.bytes.append(piece);
  for (int32_t descriptor : all_descriptors) packet.descriptors.emplace_back(fcntl(descriptor, F_DUPFD_CLOEXEC, 3));
  queued_bytes_ += size;
  queue_.push_back(std::move(packet));
  return Sent::queued;
}

bool Wire::flush() {
  std::lock_guard lock(lock_);
  while (!queue_.empty()) {
    const Packet& packet = queue_.front();
    std::vector<int32_t> descriptors;
    for (const files::Descriptor& descriptor : packet.descriptors) descriptors.push_back(descriptor.get());
    const Bytes piece = packet.bytes;
    int error = 0;
    if (!send_now({&piece, 1}, descriptors, false, error) && (error == EAGAIN || error == ENOBUFS)) return false;
    queued_bytes_ -= packet.bytes.size();
    queue_.pop_front();
  }
  return true;
}

Wire::Got Wire::receive(Frame& frame, bool wait, std::string& why) {
  thread_local std::string scratch(max_packet, '\0');
  alignas(cmsghdr) char control[CMSG_SPACE(max_descriptors * sizeof(int))];
  iovec vector{scratch.data(), scratch.size()};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t size = 0;
  while ((size = recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC | (wait ? 0 : MSG_DONTWAIT))) < 0) {
    if (errno == EAGAIN) return Got::nothing;
    if (errno != EINTR) return Got::end;
  }
  std::vector<files::Descriptor> descriptors;
  for (cmsghdr* head = CMSG_FIRSTHDR(&message); head != nullptr; head = CMSG_NXTHDR(&message, head)) {
    if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) continue;
    for (size_t i = 0; i < (head->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
      int descriptor = -1;
      std::memcpy(&descriptor, CMSG_DATA(head) + i * sizeof(int), sizeof(int));
      descriptors.emplace_back(descriptor);
    }
  }
  if (size == 0) return Got::end;
  if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    why = "a frame that is too large, or with too many descriptors";
    return Got::broken;
  }
  Result<Frame> parsed = parse_frame(scratch.substr(0, static_cast<size_t>(size)), std::move(descriptors));
  if (!parsed) {
    why = parsed.status().message();
    return Got::broken;
  }
  frame = std::move(*parsed);
  return Got::frame;
}

}  // namespace pintle::wire
