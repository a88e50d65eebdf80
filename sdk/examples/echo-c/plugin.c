/* echo-c: a finished plugin in plain C11. It serves the same interface as echo-cpp and passes the same contract suite; all
 * that it needs is <pintle/abi.h>, <pintle/wire.h> and libc. */

#include <ctype.h>
#include <pintle/abi.h>
#include <pintle/wire.h>
#include <stdlib.h>
#include <string.h>

enum { METHOD_SAY = 1, METHOD_COUNT = 2, METHOD_LISTEN = 3, METHOD_PUBLISH = 4, METHOD_MISBEHAVE = 5 };
enum { SAYING_NUMBER = 1, SAYING_TEXT = 2, SAYING_SHOUT = 3, COUNT_COUNT = 1, PUBLISHED_LISTENERS = 1 };

/* A stream under way: counting up to a number, or listening. */
typedef struct stream {
  uint64_t call_id;
  uint64_t next, count; /* of a counter */
  uint32_t credit;
  int listens;
  struct stream* following;
} stream;

typedef struct echo {
  const pintle_host_api* api;
  pintle_host* host;
  stream* streams;
} echo;

static pintle_text text(const char* literal) {
  const pintle_text made = {literal, strlen(literal)};
  return made;
}

static void answer(echo* self, uint64_t call_id, pintle_code code, const char* message, const pintle_message* reply) {
  const pintle_status status = {sizeof status, code, text(message)};
  self->api->complete(self->host, call_id, &status, reply);
}

static pintle_message message_of(const uint8_t* header, uint64_t size) {
  pintle_message message;
  memset(&message, 0, sizeof message);
  message.size = sizeof message;
  message.header = header;
  message.header_size = size;
  return message;
}

/* ---- Methods ---- */

/* Gives the request's own bytes back. To shout, the text is changed in a copy of them: capitals are as long as small letters. */
static void say(echo* self, uint64_t call_id, const pintle_message* request) {
  pintle_message reply = *request;
  pintle_reader reader = pintle_read(request->header, request->header_size);
  pintle_wire_field field;
  const uint8_t* spoken = NULL;
  uint64_t spoken_size = 0;
  int shout = 0;
  uint8_t* copy = NULL;
  while (pintle_next(&reader, &field)) {
    if (field.number == SAYING_TEXT && field.type == PINTLE_WIRE_BYTES) spoken = field.bytes, spoken_size = field.size;
    if (field.number == SAYING_SHOUT && field.type == PINTLE_WIRE_VARINT) shout = field.varint != 0;
  }
  if (shout && spoken) {
    copy = malloc(request->header_size);
    if (!copy) {
      answer(self, call_id, PINTLE_RESOURCE_EXHAUSTED, "no memory to shout in", NULL);
      return;
    }
    memcpy(copy, request->header, request->header_size);
    for (uint64_t i = 0; i < spoken_size; ++i) {
      uint8_t* letter = copy + (spoken - request->header) + i;
      *letter = (uint8_t)toupper(*letter);
    }
    reply.header = copy;
  }
  reply.descriptors = NULL;
  reply.descriptor_count = 0;
  answer(self, call_id, PINTLE_OK, "", &reply);
  free(copy);
}

static void stream_end(echo* self, stream* ended, pintle_code code, const char* why) {
  stream** link = &self->streams;
  const pintle_message nothing = message_of(NULL, 0);
  while (*link != ended) link = &(*link)->following;
  *link = ended->following;
  answer(self, ended->call_id, code, why, code == PINTLE_OK ? &nothing : NULL);
  free(ended);
}

static void count_on(echo* self, stream* counting) {
  uint8_t bytes[16];
  while (counting->next < counting->count && counting->credit > 0) {
    pintle_writer writer = pintle_write(bytes, sizeof bytes);
    pintle_message message;
    if (counting->next) pintle_put_varint(&writer, SAYING_NUMBER, counting->next);
    message = message_of(bytes, writer.size);
    if (self->api->send(self->host, counting->call_id, &message) != PINTLE_OK) {
      stream_end(self, counting, PINTLE_CANCELLED, "the caller has gone");
      return;
    }
    ++counting->next;
    --counting->credit;
  }
  if (counting->next == counting->count) stream_end(self, counting, PINTLE_OK, "");
}

static stream* stream_begin(echo* self, const pintle_call* call, int listens) {
  stream* begun = calloc(1, sizeof *begun);
  if (!begun) {
    answer(self, call->call_id, PINTLE_RESOURCE_EXHAUSTED, "no memory for one more stream", NULL);
    return NULL;
  }
  begun->call_id = call->call_id;
  begun->credit = call->initial_credit;
  begun->listens = listens;
  begun->following = self->streams;
  self->streams = begun;
  return begun;
}

static void count(echo* self, const pintle_call* call, const pintle_message* request) {
  pintle_reader reader = pintle_read(request->header, request->header_size);
  pintle_wire_field field;
  uint64_t wanted = 0;
  stream* counting;
  while (pintle_next(&reader, &field)) {
    if (field.number == COUNT_COUNT && field.type == PINTLE_WIRE_VARINT) wanted = field.varint;
  }
  counting = stream_begin(self, call, 0);
  if (!counting) return;
  counting->count = wanted;
  count_on(self, counting);
}

static void publish(echo* self, uint64_t call_id, const pintle_message* request) {
  uint8_t bytes[8];
  pintle_writer writer = pintle_write(bytes, sizeof bytes);
  pintle_message reply;
  uint64_t reached = 0;
  for (stream* listener = self->streams; listener; listener = listener->following) {
    if (!listener->listens || listener->credit == 0) continue;
    if (self->api->send(self->host, listener->call_id, request) == PINTLE_OK) {
      --listener->credit;
      ++reached;
    }
  }
  if (reached) pintle_put_varint(&writer, PUBLISHED_LISTENERS, reached);
  reply = message_of(bytes, writer.size);
  answer(self, call_id, PINTLE_OK, "", &reply);
}

/* ---- The plugin's functions ---- */

pintle_code pintle_plugin_create(const pintle_host_api* api, pintle_host* host, const pintle_instance_config* config,
                                 void** instance, pintle_status* status) {
  echo* self = calloc(1, sizeof *self);
  (void)config;
  if (!self) {
    status->code = PINTLE_RESOURCE_EXHAUSTED;
    status->message = text("no memory for the instance");
    return PINTLE_RESOURCE_EXHAUSTED;
  }
  self->api = api;
  self->host = host;
  *instance = self;
  return PINTLE_OK;
}

static void done(void* instance, uint64_t token) {
  echo* self = instance;
  const pintle_status status = {sizeof status, PINTLE_OK, {NULL, 0}};
  self->api->lifecycle_done(self->host, token, &status);
}

void pintle_plugin_start(void* instance, uint64_t token) { done(instance, token); }
void pintle_plugin_drain(void* instance, uint64_t token) { done(instance, token); }

void pintle_plugin_retire(void* instance, uint64_t token) {
  echo* self = instance;
  done(instance, token);
  self->api->retired(self->host);
}

void pintle_plugin_stop(void* instance, uint64_t token) {
  echo* self = instance;
  while (self->streams) stream_end(self, self->streams, PINTLE_UNAVAILABLE, "the plugin stops");
  done(instance, token);
}

void pintle_plugin_destroy(void* instance) {
  echo* self = instance;
  while (self->streams) {
    stream* first = self->streams;
    self->streams = first->following;
    free(first);
  }
  free(self);
}

static int is_malformed(const pintle_message* message) {
  pintle_reader reader = pintle_read(message->header, message->header_size);
  pintle_wire_field field;
  while (pintle_next(&reader, &field)) {
  }
  return reader.failed;
}

void pintle_plugin_handle(void* instance, const pintle_call* call, const pintle_message* message) {
  echo* self = instance;
  if (is_malformed(message)) {
    answer(self, call->call_id, PINTLE_INVALID_ARGUMENT, "the request is not an encoded message of pintle.example.v1", NULL);
    return;
  }
  switch (call->method) {
    case METHOD_SAY: say(self, call->call_id, message); break;
    case METHOD_COUNT: count(self, call, message); break;
    case METHOD_LISTEN: stream_begin(self, call, 1); break;
    case METHOD_PUBLISH: publish(self, call->call_id, message); break;
    case METHOD_MISBEHAVE:
      answer(self, call->call_id, PINTLE_PERMISSION_DENIED, "this plugin does not misbehave; the ones that do are test plugins",
             NULL);
      break;
    default: answer(self, call->call_id, PINTLE_UNIMPLEMENTED, "pintle.example.v1.Echo has no method of this number here", NULL);
  }
}

static stream* stream_of(echo* self, uint64_t call_id) {
  stream* found = self->streams;
  while (found && found->call_id != call_id) found = found->following;
  return found;
}

void pintle_plugin_cancelled(void* instance, uint64_t call_id) {
  stream* found = stream_of(instance, call_id);
  if (found) stream_end(instance, found, PINTLE_CANCELLED, "the caller has gone");
}

void pintle_plugin_stream_message(void* instance, uint64_t call_id, const pintle_message* message) {
  (void)message;
  answer(instance, call_id, PINTLE_INVALID_ARGUMENT, "this method takes no stream from its caller", NULL);
}

void pintle_plugin_stream_credit(void* instance, uint64_t call_id, uint32_t credit) {
  stream* found = stream_of(instance, call_id);
  if (!found) return;
  found->credit += credit;
  if (!found->listens) count_on(instance, found);
}

void pintle_plugin_bindings(void* instance, uint32_t need, const pintle_binding* bindings, uint32_t count_of) {
  (void)instance, (void)need, (void)bindings, (void)count_of; /* it needs nobody */
}
