/* A plugin with a flaw for each finding of `pintle plugin check`; its config says which. It provides Echo and answers UNIMPLEMENTED
 * to all calls but Say (number 1), which it answers with the request. */
#include <pintle/abi.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef FLAWED_LINKING
extern int nobody_has_this_symbol(void);
__attribute__((visibility("default"))) int leaked_symbol(void) { return nobody_has_this_symbol(); }
__thread int initial_exec_counter;
#endif

typedef struct victim {
  const pintle_host_api* api;
  pintle_host* host;
  char how[64];
} victim;

static pintle_text text(const char* literal) {
  const pintle_text made = {literal, strlen(literal)};
  return made;
}

static int does(const victim* self, const char* flaw) { return strstr(self->how, flaw) != NULL; }

pintle_code pintle_plugin_create(const pintle_host_api* api, pintle_host* host, const pintle_instance_config* config,
                                 void** instance, pintle_status* status) {
  victim* self = calloc(1, sizeof *self);
  const uint64_t size = config->config.size < sizeof self->how ? config->config.size : sizeof self->how - 1;
  self->api = api;
  self->host = host;
  memcpy(self->how, config->config.data, size);
  if (does(self, "refuse")) {
    free(self);
    status->code = PINTLE_FAILED_PRECONDITION;
    status->message = text("the machine is not to its liking");
    return PINTLE_FAILED_PRECONDITION;
  }
  *instance = self;
  return PINTLE_OK;
}

static void done(victim* self, uint64_t token) {
  const pintle_status status = {sizeof status, PINTLE_OK, {NULL, 0}};
  self->api->lifecycle_done(self->host, token, &status);
}

void pintle_plugin_start(void* instance, uint64_t token) {
  victim* self = instance;
#ifdef FLAWED_LINKING
  ++initial_exec_counter;
#endif
  if (does(self, "crash-in-start")) abort();
  if (does(self, "umask")) umask(0777);
  if (does(self, "signal")) signal(SIGUSR1, SIG_IGN);
  if (does(self, "folder") && chdir("/") != 0) abort();
  done(self, token);
}
void pintle_plugin_drain(void* instance, uint64_t token) { done(instance, token); }
void pintle_plugin_retire(void* instance, uint64_t token) { done(instance, token); }
void pintle_plugin_stop(void* instance, uint64_t token) { done(instance, token); }
void pintle_plugin_destroy(void* instance) { free(instance); }

/* A child in a session of its own, which an end of its parent's group does not reach; it holds a pipe of the test's open. */
static void leave_child(void) {
  static int left = 0;
  if (left++ || fork() != 0) return;
  setsid();
  for (;;) pause();
}

void pintle_plugin_handle(void* instance, const pintle_call* call, const pintle_message* message) {
  victim* self = instance;
  const pintle_status good = {sizeof good, PINTLE_OK, {NULL, 0}};
  const pintle_status bad = {sizeof bad, PINTLE_UNIMPLEMENTED, text("still to be written")};
  if (call->method != 1) {
    self->api->complete(self->host, call->call_id, &bad, NULL);
    return;
  }
  if (does(self, "child")) leave_child();
  if (does(self, "crash-in-call")) raise(SIGSEGV);
  while (does(self, "hang")) pause();
  if (does(self, "exit")) exit(0);
  if (does(self, "twice")) self->api->complete(self->host, call->call_id, &good, message);
  self->api->complete(self->host, call->call_id, &good, message);
}

void pintle_plugin_cancelled(void* instance, uint64_t call_id) { (void)instance, (void)call_id; }
void pintle_plugin_stream_message(void* instance, uint64_t call_id, const pintle_message* message) {
  (void)instance, (void)call_id, (void)message;
}
void pintle_plugin_stream_credit(void* instance, uint64_t call_id, uint32_t credit) {
  (void)instance, (void)call_id, (void)credit;
}
void pintle_plugin_bindings(void* instance, uint32_t need, const pintle_binding* bindings, uint32_t count) {
  (void)instance, (void)need, (void)bindings, (void)count;
}
