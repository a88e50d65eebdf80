#include <pintle/abi.h>
#include <pintle/wire.h>
#include <stdlib.h>
#include <string.h>

/* The methods of @INTERFACE@, by their numbers in @SCHEMA_FOLDER@/@SCHEMA@.proto. */
enum {
@METHODS@};

typedef struct plugin {
  const pintle_host_api* api;
  pintle_host* host;
} plugin;

static pintle_text text(const char* literal) {
  const pintle_text made = {literal, strlen(literal)};
  return made;
}

/* Ends a call. `reply` is NULL unless the code is PINTLE_OK. */
static void answer(plugin* self, uint64_t call_id, pintle_code code, const char* message, const pintle_message* reply) {
  const pintle_status status = {sizeof status, code, text(message)};
  self->api->complete(self->host, call_id, &status, reply);
}

/* ---- Life cycle ---- */

pintle_code pintle_plugin_create(const pintle_host_api* api, pintle_host* host, const pintle_instance_config* config,
                                 void** instance, pintle_status* status) {
  plugin* self = calloc(1, sizeof *self);
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

static void done(plugin* self, uint64_t token) {
  const pintle_status status = {sizeof status, PINTLE_OK, {NULL, 0}};
  self->api->lifecycle_done(self->host, token, &status);
}

void pintle_plugin_start(void* instance, uint64_t token) { done(instance, token); }
void pintle_plugin_drain(void* instance, uint64_t token) { done(instance, token); }
void pintle_plugin_stop(void* instance, uint64_t token) { done(instance, token); }

void pintle_plugin_retire(void* instance, uint64_t token) {
  plugin* self = instance;
  done(self, token);
  self->api->retired(self->host);
}

void pintle_plugin_destroy(void* instance) { free(instance); }

/* ---- Calls ---- */

void pintle_plugin_handle(void* instance, const pintle_call* call, const pintle_message* message) {
  plugin* self = instance;
  (void)message;
  switch (call->method) {
@CASES@    default:
      answer(self, call->call_id, PINTLE_UNIMPLEMENTED, "@INTERFACE@ has no method of this number here", NULL);
  }
}

void pintle_plugin_cancelled(void* instance, uint64_t call_id) { (void)instance, (void)call_id; }

void pintle_plugin_stream_message(void* instance, uint64_t call_id, const pintle_message* message) {
  (void)message;
  answer(instance, call_id, PINTLE_INVALID_ARGUMENT, "this method takes no stream from its caller", NULL);
}

void pintle_plugin_stream_credit(void* instance, uint64_t call_id, uint32_t credit) {
  (void)instance, (void)call_id, (void)credit;
}

void pintle_plugin_bindings(void* instance, uint32_t need, const pintle_binding* bindings, uint32_t count) {
  (void)instance, (void)need, (void)bindings, (void)count;
}
