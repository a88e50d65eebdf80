// bad-echo: a plugin that misbehaves on request. Against the C ABI alone, so that no barrier of the C++ layer stands between.
//
// `Say` gives back what it is told; `Misbehave` takes the name of a wickedness and perhaps an amount. What does not end the process
// answers with the number of what it got (processes, descriptors, mebibytes).

#include <fcntl.h>
#include <pintle/abi.h>
#include <pintle/wire.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "sdk/support/wire/wire.hpp"

namespace {

enum { method_say = 1, method_misbehave = 5 };

struct Bad {
  const pintle_host_api* api;
  pintle_host* host;
  uint64_t last_call = 0;
};

void answer(Bad& self, uint64_t call_id, pintle_code code, const char* text, const pintle_message* reply) {
  const pintle_status status{sizeof status, code, {text, std::strlen(text)}};
  self.api->complete(self.host, call_id, &status, reply);
}

void answer_number(Bad& self, uint64_t call_id, uint64_t number) {
  uint8_t bytes[16];
  pintle_writer writer = pintle_write(bytes, sizeof bytes);
  if (number) pintle_put_varint(&writer, 1, number);
  pintle_message reply{};
  reply.size = sizeof reply;
  reply.header = bytes;
  reply.header_size = writer.size;
  answer(self, call_id, PINTLE_OK, "", &reply);
}

volatile int never = 0;

// Not a tail call, and every frame is written to.
__attribute__((noinline)) int recurse(int depth) {
  volatile char frame[4096];
  frame[depth % 4096] = static_cast<char>(depth);
  if (never) return frame[0];
  return recurse(depth + 1) + frame[depth % 4096];
}

uint64_t fork_bomb(uint64_t most) {
  uint64_t made = 0;
  for (; made < most; ++made) {
    const pid_t child = fork();
    if (child < 0) break;
    if (child == 0) {
      for (;;) pause();
    }
  }
  return made;
}

uint64_t flood_descriptors(uint64_t most) {
  uint64_t made = 0;
  while (made < most && open("/dev/null", O_RDONLY) >= 0) ++made;
  return made;
}

uint64_t leak(uint64_t mebibytes) {
  uint64_t leaked = 0;
  for (; leaked < mebibytes; ++leaked) {
    char* bytes = static_cast<char*>(std::malloc(1 << 20));
    if (!bytes) throw std::bad_alloc();
    for (size_t i = 0; i < 1 << 20; i += 4096) bytes[i] = 1;
  }
  return leaked;
}

/// Every socket of this process that is connected to somebody: the way to the host among them.
std::vector<int> sockets() {
  std::vector<int> found;
  for (int descriptor = 3; descriptor < 256; ++descriptor) {
    struct stat info;
    sockaddr_storage peer;
    socklen_t size = sizeof peer;
    if (fstat(descriptor, &info) == 0 && S_ISSOCK(info.st_mode) &&
        getpeername(descriptor, reinterpret_cast<sockaddr*>(&peer), &size) == 0) {
      found.push_back(descriptor);
    }
  }
  return found;
}

uint64_t write_garbage() {
  std::string garbage(4096, '\xff');
  for (size_t i = 0; i < garbage.size(); ++i) garbage[i] = static_cast<char>(i * 37 + 11);
  uint64_t written = 0;
  for (int descriptor : sockets()) written += send(descriptor, garbage.data(), garbage.size(), MSG_NOSIGNAL) > 0;
  return written;
}

/// Completes, cancels, feeds and credits calls that it was never given. The number of those that the host took.
uint64_t forge_ids(Bad& self, uint64_t own) {
  uint64_t taken = 0;
  const pintle_status status{sizeof status, PINTLE_OK, {nullptr, 0}};
  pintle_message message{};
  message.size = sizeof message;
  std::vector<uint64_t> forged{0, 1, 2, 3, UINT64_MAX, UINT64_MAX >> 1, self.last_call};
  for (uint64_t distance = 1; distance < 2000; ++distance)
    forged.insert(forged.end(), {own + distance, own - distance, own ^ (distance << 24)});
  for (uint64_t id : forged) {
    if (id == own) continue;
    taken += self.api->complete(self.host, id, &status, &message) == PINTLE_OK;
    taken += self.api->cancel(self.host, id) == PINTLE_OK;
    taken += self.api->send(self.host, id, &message) == PINTLE_OK;
    taken += self.api->grant(self.host, id, 1000) == PINTLE_OK;
    taken += self.api->lifecycle_done(self.host, id, &status) == PINTLE_OK;
    uint64_t given = 0;
    taken += self.api->call(
                 self.host, id, 1, &message, nullptr,
                 [](void*, uint64_t, const pintle_status*, const pintle_message*) {}, nullptr, &given) == PINTLE_OK;
  }
  return taken;
}

/// Well-made frames past the host's own code: with the ids that calls of the daemon have. The number that were sent.
uint64_t forge_frames(uint64_t uses, std::initializer_list<pintle::wire::FrameKind> kinds) {
  using namespace pintle::wire;
  uint64_t sent = 0;
  for (int socket : sockets()) {
    Wire wire(pintle::files::Descriptor(dup(socket)));
    for (uint64_t use = 0; use < uses; ++use) {
      for (uint64_t slot = 0; slot < 16; ++slot) {
        for (FrameKind kind : kinds) {
          for (uint8_t mine = 0; mine < 2; ++mine) {
            FrameHead head = frame_head(kind, use << 24 | slot, 0, 7);
            head.mine = mine;
            head.binding = slot;
            head.method = 1;
            const Bytes parts[] = {"user:root", "forged"};
            sent += wire.send(head, parts, {}, true) == Wire::Sent::yes;
          }
        }
      }
    }
  }
  return sent;
}

void misbehave(Bad& self, uint64_t call_id, const std::string& how, uint64_t amount) {
  if (how == "crash") *reinterpret_cast<volatile int*>(never) = 1;
  if (how == "abort") std::abort();
  if (how == "exit") _exit(0);
  if (how == "throw") throw std::runtime_error("thrown by bad-echo");
  if (how == "throw-int") throw 7;
  if (how == "loop") {
    while (!never) {
    }
  }
  if (how == "stack") answer_number(self, call_id, static_cast<uint64_t>(recurse(0)));
  if (how == "stop-reading") raise(SIGSTOP);
  if (how == "never-answer") return;
  if (how == "fork") return answer_number(self, call_id, fork_bomb(amount));
  if (how == "descriptors") return answer_number(self, call_id, flood_descriptors(amount));
  if (how == "leak") return answer_number(self, call_id, leak(amount));
  if (how == "garbage") return answer_number(self, call_id, write_garbage());
  using pintle::wire::FrameKind;
  if (how == "forge-frames")
    return answer_number(
        self, call_id,
        forge_frames(amount, {FrameKind::completion, FrameKind::message, FrameKind::credit, FrameKind::cancel}));
  if (how == "forge-answers")
    return answer_number(self, call_id, forge_frames(amount, {FrameKind::done, FrameKind::told, FrameKind::pong}));
  if (how == "forge-calls") return answer_number(self, call_id, forge_frames(amount, {FrameKind::call}));
  if (how == "forge") return answer_number(self, call_id, forge_ids(self, call_id));
  if (how == "answer-twice") {
    answer_number(self, call_id, 1);
    return answer_number(self, call_id, 2);
  }
  answer(self, call_id, PINTLE_INVALID_ARGUMENT, "no wickedness of this name", nullptr);
}

void say_done(void* instance, uint64_t token) {
  Bad& self = *static_cast<Bad*>(instance);
  const pintle_status status{sizeof status, PINTLE_OK, {nullptr, 0}};
  self.api->lifecycle_done(self.host, token, &status);
}

}  // namespace

extern "C" {

pintle_code pintle_plugin_create(const pintle_host_api* api, pintle_host* host, const pintle_instance_config*,
                                 void** instance, pintle_status*) {
  *instance = new Bad{api, host};
  return PINTLE_OK;
}
void pintle_plugin_start(void* instance, uint64_t token) { say_done(instance, token); }
void pintle_plugin_drain(void* instance, uint64_t token) { say_done(instance, token); }
void pintle_plugin_stop(void* instance, uint64_t token) { say_done(instance, token); }
void pintle_plugin_retire(void* instance, uint64_t token) {
  say_done(instance, token);
  Bad& self = *static_cast<Bad*>(instance);
  self.api->retired(self.host);
}
void pintle_plugin_destroy(void* instance) { delete static_cast<Bad*>(instance); }

void pintle_plugin_handle(void* instance, const pintle_call* call, const pintle_message* message) {
  Bad& self = *static_cast<Bad*>(instance);
  if (call->method == method_say) {
    pintle_message reply = *message;
    reply.descriptors = nullptr;
    reply.descriptor_count = 0;
    answer(self, call->call_id, PINTLE_OK, "", &reply);
  } else if (call->method == method_misbehave) {
    pintle_reader reader = pintle_read(message->header, message->header_size);
    pintle_wire_field field;
    std::string how;
    uint64_t amount = 0;
    while (pintle_next(&reader, &field)) {
      if (field.number == 1 && field.type == PINTLE_WIRE_BYTES)
        how.assign(reinterpret_cast<const char*>(field.bytes), field.size);
      if (field.number == 2 && field.type == PINTLE_WIRE_VARINT) amount = field.varint;
    }
    misbehave(self, call->call_id, how, amount);
  } else {
    answer(self, call->call_id, PINTLE_UNIMPLEMENTED, "not here", nullptr);
  }
  self.last_call = call->call_id;
}

void pintle_plugin_cancelled(void*, uint64_t) {}
void pintle_plugin_stream_message(void*, uint64_t, const pintle_message*) {}
void pintle_plugin_stream_credit(void*, uint64_t, uint32_t) {}
void pintle_plugin_bindings(void*, uint32_t, const pintle_binding*, uint32_t) {}

}  // extern "C"
