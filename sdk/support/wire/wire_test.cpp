#include "sdk/support/wire/wire.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

namespace pintle::wire {
namespace {

using testing::ElementsAre;

class WireTest : public testing::Test {
 protected:
  void SetUp() override {
    int pair[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    left_ = std::make_unique<Wire>(files::Descriptor(pair[0]));
    right_ = std::make_unique<Wire>(files::Descriptor(pair[1]));
  }
  Wire::Got receive(Frame& frame) { return right_->receive(frame, false, why_); }
  std::unique_ptr<Wire> left_, right_;
  std::string why_;
};

std::string text(const pintle_buffer* buffer) { return {reinterpret_cast<const char*>(buffer->data), buffer->length}; }

TEST_F(WireTest, SmallAndLargePartsAndDescriptorsArriveAsTheyWere) {
  FrameHead head;
  head.kind = FrameKind::call;
  head.id = 42;
  const std::string large(300'000, 'L'), small(1000, 's');
  const Bytes parts[] = {"caller", "header", large, small};
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  ASSERT_EQ(left_->send(head, parts, {&ends[1], 1}, false), Wire::Sent::yes);
  close(ends[1]);
  Frame frame;
  ASSERT_EQ(receive(frame), Wire::Got::frame) << why_;
  EXPECT_EQ(frame.head.id, 42u);
  ASSERT_EQ(frame.descriptors.size(), 1u);
  EXPECT_EQ(write(frame.descriptors[0].get(), "x", 1), 1);
  char byte = 0;
  EXPECT_EQ(read(ends[0], &byte, 1), 1);
  close(ends[0]);
  pintle_buffer* kept = nullptr;
  {
    Frame::Message message;
    frame.message(1, message);
    EXPECT_EQ(Bytes(reinterpret_cast<const char*>(message.view.header), message.view.header_size), "header");
    ASSERT_EQ(message.view.buffer_count, 2u);
    EXPECT_EQ(text(message.view.buffers[0]), large);
    EXPECT_EQ(text(message.view.buffers[1]), small);
    kept = message.view.buffers[0];
    kept->retain(kept);
  }
  frame = Frame();
  EXPECT_EQ(text(kept), large) << "a buffer that was kept went with its frame";
  kept->release(kept);
}

TEST_F(WireTest, AFullPeerQueuesThenRefusesAndOrderIsKept) {
  FrameHead head;
  head.kind = FrameKind::message;
  const std::string payload(32'000, 'p');
  const Bytes part = payload;
  uint64_t sent = 0;
  bool was_queued = false;
  for (;; ++sent) {
    head.id = sent;
    const Wire::Sent how = left_->send(head, {&part, 1}, {}, false);
    if (how == Wire::Sent::refused) break;
    was_queued = was_queued || how == Wire::Sent::queued;
    ASSERT_LT(sent, 100'000u) << "a peer that does not read is fed for ever";
  }
  EXPECT_TRUE(was_queued);
  Frame frame;
  for (uint64_t expected = 0; expected < sent; ++expected) {
    left_->flush();
    ASSERT_EQ(receive(frame), Wire::Got::frame);
    ASSERT_EQ(frame.head.id, expected);
  }
}

TEST_F(WireTest, FramesThatDoNotAddUpAreBroken) {
  const auto raw = [&](const std::string& bytes) {
    EXPECT_EQ(send(left_->descriptor(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    Frame frame;
    return receive(frame);
  };
  const auto bytes_of = [](const FrameHead& head, std::vector<uint64_t> lengths, const std::string& rest) {
    std::string out(reinterpret_cast<const char*>(&head), sizeof head);
    for (uint64_t length : lengths) out.append(reinterpret_cast<const char*>(&length), sizeof length);
    return out + rest;
  };
  FrameHead head;
  head.kind = FrameKind::call;
  EXPECT_EQ(raw("short"), Wire::Got::broken);
  head.parts = 1;
  EXPECT_EQ(raw(bytes_of(head, {5}, "1234")), Wire::Got::broken);
  EXPECT_EQ(raw(bytes_of(head, {4}, "12345")), Wire::Got::broken);
  EXPECT_EQ(raw(bytes_of(head, {(1ull << 63) | 10}, "")), Wire::Got::broken);
  EXPECT_EQ(raw(bytes_of(head, {~0ull}, "")), Wire::Got::broken);
  head.parts = 1000;
  EXPECT_EQ(raw(bytes_of(head, {}, "")), Wire::Got::broken);
  head.parts = 0;
  head.descriptors = 3;
  EXPECT_EQ(raw(bytes_of(head, {}, "")), Wire::Got::broken);
  head.descriptors = 0;
  head.kind = static_cast<FrameKind>(200);
  EXPECT_EQ(raw(bytes_of(head, {}, "")), Wire::Got::broken);
  head.kind = FrameKind::call;
  EXPECT_EQ(raw(bytes_of(head, {}, "")), Wire::Got::frame);
}

TEST_F(WireTest, AMemoryFileThatCanStillChangeIsRefused) {
  FrameHead head;
  head.kind = FrameKind::call;
  head.parts = 1;
  const uint64_t length = (1ull << 63) | 5;
  files::Descriptor open(memfd_create("open", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(write(open.get(), "hello", 5), 5);
  std::string packet(reinterpret_cast<const char*>(&head), sizeof head);
  packet.append(reinterpret_cast<const char*>(&length), sizeof length);
  std::vector<files::Descriptor> descriptors;
  descriptors.push_back(std::move(open));
  EXPECT_FALSE(parse_frame(packet, std::move(descriptors)));
}

TEST(PackTest, ListsComeBackAndCutOffOnesDoNot) {
  const std::string packed = pack({"one", "", "three"});
  EXPECT_THAT(*unpack(packed), ElementsAre("one", "", "three"));
  for (size_t size = 1; size < packed.size(); ++size) {
    const Result<std::vector<std::string>> list = unpack(Bytes(packed).substr(0, size));
    EXPECT_TRUE(!list || list->size() < 3) << size;
  }
  EXPECT_FALSE(unpack(Bytes(packed).substr(0, 6)));
}

}  // namespace
}  // namespace pintle::wire
