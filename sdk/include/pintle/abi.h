/* The boundary between Pintle and a plugin: plain C11, libc only.
 *
 * A plugin is a shared object with exactly one exported data symbol, `pintle_plugin_entry` (type `pintle_plugin`), and one ELF
 * note in the section `.note.pintle` (`pintle_elf_note`), from which the host tells the plugin's id, ABI and the hash of its
 * manifest before any of its code runs. The same file runs inside `pintled` or alone in a child process; it cannot tell.
 *
 * What crosses. Messages of named, versioned interfaces (Protobuf services, `sdk/schema/`). A message is a small encoded
 * header, immutable reference-counted buffers, and file descriptors. No exception, C++ type, allocator or errno crosses.
 * The functions here carry messages and run code in time; what the messages mean is not their business. That is why this
 * file hardly grows while interfaces come and go.
 *
 * Life cycle of an instance (one plugin may have several instances, told apart by name and generation):
 *
 *     created --start--> running --drain--> drained --stop--> stopped --destroy
 *                           |                  ^
 *                           +----retire----> retiring   (serves what it still owns, then calls `retired`)
 *
 *   create   allocates, reads its config, touches nothing outside. start reconciles with what is really on the machine.
 *   drain    refuses new work, finishes calls under way. stop releases everything but what must outlive the process.
 *   Each of start, drain, retire and stop is answered by exactly one `lifecycle_done` with its token.
 *
 * Calls. `call` returns 0 (accepted) or a code. Accepted means exactly one completion: on the caller's lane, never before
 *   `call` returned to a turn of that lane (to a thread of the plugin's own it may be returning still; `*call_id` is set). A message to the implementer and all that follows on that binding arrive in the order of sending. At its
 *   deadline the host completes the call (DEADLINE_EXCEEDED) and drops what comes later; cancel is advisory. A call may also
 *   carry a stream, each way, which ends with its completion; a stream message costs one credit, which its receiver grants.
 *   Call ids are never reused; a stale or foreign id is NOT_FOUND and does no harm.
 *
 * Threads. An instance has one *lane*: a queue of turns that never overlap, on whatever thread. Tags below:
 *   [lane]  called by the host on the instance's lane, or to be called by the plugin on its lane only
 *   [any]   may be called from any thread, also from within callbacks
 *   A turn longer than a second is reported with the plugin's name; work that blocks goes to `post_blocking`.
 *
 * Ownership. All that a function is given is borrowed until it returns (messages, texts, arrays, descriptors: duplicate what
 *   you keep; retain buffers you keep). Outputs are written on success only. Nothing is freed across the boundary but buffers,
 *   through their own `release`.
 *
 * Growth. Every struct starts with its `size` and is only ever appended to; a field is read only if `size` covers it. Functions
 *   appended to a table are optional: absent (NULL or past `size`) means the former behaviour. Numbers are never reused.
 *   Draft (major 0): until the API server runs on it, a minor number may still change what is here; the checker
 *   (`sdk/abi/check`) compares with the ABI of each release from the first day.
 */
#ifndef PINTLE_ABI_H
#define PINTLE_ABI_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PINTLE_ABI_MAJOR 0u
#define PINTLE_ABI_MINOR 1u

#if defined(__GNUC__)
#define PINTLE_EXPORT __attribute__((visibility("default")))
#else
#define PINTLE_EXPORT
#endif

/* ---- Values ---------------------------------------------------------------------------------------------------------------- */

/* The numbers of gRPC's status codes; 0 is success. The closed set of errors. */
enum {
  PINTLE_OK = 0,
  PINTLE_CANCELLED = 1,
  PINTLE_UNKNOWN = 2,
  PINTLE_INVALID_ARGUMENT = 3,
  PINTLE_DEADLINE_EXCEEDED = 4,
  PINTLE_NOT_FOUND = 5,
  PINTLE_ALREADY_EXISTS = 6,
  PINTLE_PERMISSION_DENIED = 7,
  PINTLE_RESOURCE_EXHAUSTED = 8,
  PINTLE_FAILED_PRECONDITION = 9,
  PINTLE_ABORTED = 10,
  PINTLE_OUT_OF_RANGE = 11,
  PINTLE_UNIMPLEMENTED = 12,
  PINTLE_INTERNAL = 13,
  PINTLE_UNAVAILABLE = 14,
  PINTLE_DATA_LOSS = 15,
  PINTLE_UNAUTHENTICATED = 16
};
typedef uint32_t pintle_code;

/* UTF-8, not terminated. data may be NULL if size is 0. */
typedef struct pintle_text {
  const char* data;
  uint64_t size;
} pintle_text;

/* A code and one line for a person: what, where, what would be right. */
typedef struct pintle_status {
  uint32_t size;
  pintle_code code;
  pintle_text message;
} pintle_status;

/* Immutable bytes with a reference count. OWNED by who made it: `retain` and `release` are the owner's functions and may be
 * called from any thread. Bytes never change once the buffer was handed out. */
typedef struct pintle_buffer pintle_buffer;
struct pintle_buffer {
  uint32_t size;
  uint32_t flags; /* 0 */
  const uint8_t* data;
  uint64_t length;
  void (*retain)(pintle_buffer* buffer);  /* [any] */
  void (*release)(pintle_buffer* buffer); /* [any] the last release frees */
};

/* OWNED by the sender, borrowed by the receiver until the function that brought it returns. */
typedef struct pintle_message {
  uint32_t size;
  uint32_t buffer_count;
  uint32_t descriptor_count;
  uint32_t reserved;
  const uint8_t* header; /* the encoded Protobuf message of the method */
  uint64_t header_size;
  pintle_buffer* const* buffers;
  const int32_t* descriptors; /* duplicate those to keep; they are closed when the function returns */
} pintle_message;

enum { PINTLE_MAX_HEADER = 4u << 20, PINTLE_MAX_BUFFERS = 16, PINTLE_MAX_DESCRIPTORS = 16 };

/* ---- Calls ----------------------------------------------------------------------------------------------------------------- */

/* [lane] Ends a call: exactly once for each accepted call. `reply` is NULL unless status->code is PINTLE_OK. */
typedef void (*pintle_completion)(void* context, uint64_t call_id, const pintle_status* status, const pintle_message* reply);
/* [lane] One message of the stream that the other side sends on this call. */
typedef void (*pintle_stream_message)(void* context, uint64_t call_id, const pintle_message* message);
/* [lane] The other side has granted `credit` more messages. */
typedef void (*pintle_stream_credit)(void* context, uint64_t call_id, uint32_t credit);

typedef struct pintle_call_options {
  uint32_t size;
  uint32_t initial_credit;               /* stream messages that the implementer may send at once; 0 for a plain call */
  uint64_t timeout_ns;                   /* from now; 0 takes the interface's default (30 s; none for streams) */
  uint64_t parent_call_id;               /* the call being served, for the trace and the deadline; 0 for none */
  pintle_stream_message on_message;      /* NULL: stream messages are an error of the implementer */
  pintle_stream_credit on_credit;        /* NULL: the caller sends no stream */
} pintle_call_options;

/* What the implementer is told of a call; stamped by the host, not by the caller. */
typedef struct pintle_call {
  uint32_t size;
  uint32_t interface_index; /* into `provides` of the manifest */
  uint32_t method;          /* the method's number in its schema */
  uint32_t initial_credit;  /* stream messages that may be sent at once */
  uint64_t call_id;
  uint64_t remaining_ns;    /* until the deadline; 0: none */
  pintle_text caller;       /* the caller's identity, "plugin:node-agent" or "user:root" */
  uint8_t trace[16];
} pintle_call;

/* ---- Bindings: who answers a need ------------------------------------------------------------------------------------------ */

enum { PINTLE_BINDING_RETIRING = 1u }; /* serves only what it already owns */

typedef struct pintle_binding {
  uint32_t size;
  uint32_t flags;
  uint64_t binding_id;   /* for `call`; never reused */
  uint32_t revision;     /* the highest that both sides know */
  uint32_t reserved;
  uint64_t features;     /* bits of the interface's schema that the provider has */
  pintle_text provider;  /* the instance, "runtime-oci" */
  pintle_text key;       /* the instance and its generation, "runtime-oci@2": the same over restarts */
} pintle_binding;

/* ---- Processes, listeners, logs, metrics ----------------------------------------------------------------------------------- */

enum { PINTLE_SPAWN_NEW_SESSION = 1u, PINTLE_SPAWN_DETACHED = 2u /* outlives the host: in its own cgroup, never killed by it */ };

typedef struct pintle_spawn {
  uint32_t size;
  uint32_t flags;
  pintle_text program;            /* absolute path */
  const pintle_text* arguments;   /* with argv[0] */
  const pintle_text* environment; /* "NAME=value"; complete: nothing is inherited */
  uint32_t argument_count;
  uint32_t environment_count;
  pintle_text directory;          /* working directory; empty: "/" */
  const int32_t* descriptors;     /* become 0, 1, 2, ... in the child; -1 is /dev/null; all others are closed */
  uint32_t descriptor_count;
  uint32_t cgroup_count;
  const pintle_text* cgroups;     /* cgroup folders that the child joins before it executes (several on cgroup v1) */
} pintle_spawn;

typedef struct pintle_process {
  uint32_t size;
  int32_t pid;
  int32_t pidfd; /* OWNED by the plugin, which closes it */
  uint32_t reserved;
} pintle_process;

/* [lane] `wait_status` as of waitpid(2). Called once for each spawned process. */
typedef void (*pintle_exited)(void* context, int32_t pid, int32_t wait_status);

enum { PINTLE_LOG_TRACE = 0, PINTLE_LOG_DEBUG = 1, PINTLE_LOG_INFO = 2, PINTLE_LOG_WARN = 3, PINTLE_LOG_ERROR = 4 };

typedef struct pintle_field {
  pintle_text name;
  pintle_text value;
} pintle_field;

enum { PINTLE_METRIC_COUNTER = 0, PINTLE_METRIC_GAUGE = 1, PINTLE_METRIC_HISTOGRAM = 2 };

/* Prometheus naming rules; the host adds the label `plugin`. */
typedef struct pintle_metric {
  uint32_t size;
  uint32_t kind;
  pintle_text name;
  pintle_text help;
  const pintle_field* labels;
  uint32_t label_count;
  uint32_t bucket_count;
  const double* buckets; /* upper bounds of a histogram, ascending, without +Inf */
} pintle_metric;

/* ---- The host's table ------------------------------------------------------------------------------------------------------ */

typedef struct pintle_host pintle_host; /* the host's own; one for each instance */
typedef void (*pintle_function)(void* context);
typedef void (*pintle_text_ready)(void* context, pintle_text text); /* [lane] */
typedef void (*pintle_ready)(void* context, uint32_t events); /* [lane] POLLIN, POLLOUT, POLLERR, POLLHUP as of poll(2) */

typedef struct pintle_host_api {
  uint32_t size;
  uint16_t abi_major, abi_minor;

  /* Caller's side. */
  pintle_code (*call)(pintle_host*, uint64_t binding_id, uint32_t method, const pintle_message*, const pintle_call_options*,
                      pintle_completion, void* context, uint64_t* call_id); /* [any] RESOURCE_EXHAUSTED: too many under way */
  pintle_code (*cancel)(pintle_host*, uint64_t call_id); /* [any] advisory; the completion still comes */

  /* Implementer's side. */
  pintle_code (*complete)(pintle_host*, uint64_t call_id, const pintle_status*, const pintle_message* reply); /* [any] */

  /* Streams, either side. */
  pintle_code (*send)(pintle_host*, uint64_t call_id, const pintle_message*); /* [any] RESOURCE_EXHAUSTED: no credit left */
  pintle_code (*grant)(pintle_host*, uint64_t call_id, uint32_t credit);      /* [any] */

  /* Running code. */
  pintle_code (*post)(pintle_host*, pintle_function, void* context);          /* [any] a turn on the lane */
  pintle_code (*post_blocking)(pintle_host*, pintle_function, void* context); /* [any] on a thread that may block */
  pintle_code (*timer)(pintle_host*, uint64_t delay_ns, pintle_function, void* context, uint64_t* timer_id);           /* [any] */
  pintle_code (*timer_cancel)(pintle_host*, uint64_t timer_id); /* [lane] NOT_FOUND: it has run; else it will not run any more */
  pintle_code (*watch)(pintle_host*, int32_t descriptor, uint32_t events, pintle_ready, void* context, uint64_t* watch_id);
                                                                 /* [any] level-triggered, until `unwatch`; the descriptor stays the plugin's */
  pintle_code (*unwatch)(pintle_host*, uint64_t watch_id);       /* [lane] no call of `pintle_ready` comes after */
  pintle_code (*spawn)(pintle_host*, const pintle_spawn*, pintle_exited, void* context, pintle_process*); /* [any] */

  /* A listening socket that outlives the instance and a restart of the host. `address`: "unix:/path" or "tcp:IP:PORT".
   * The descriptor is a duplicate, OWNED by the plugin. Not listening any more: `listen_end`. */
  pintle_code (*listen)(pintle_host*, pintle_text name, pintle_text address, int32_t* descriptor); /* [any] */
  pintle_code (*listen_end)(pintle_host*, pintle_text name);                                       /* [any] */

  /* Being seen. */
  void (*log)(pintle_host*, uint32_t level, pintle_text message, const pintle_field*, uint32_t field_count); /* [any] */
  uint32_t (*log_level)(pintle_host*);                                                                        /* [any] */
  pintle_code (*metric)(pintle_host*, const pintle_metric*, uint64_t* metric_id);    /* [any] the same labels: the same id */
  pintle_code (*metric_update)(pintle_host*, uint64_t metric_id, double value);      /* [any] add, set or observe, by kind */
  /* A condition of this instance that readiness and `pintle status` show. */
  pintle_code (*condition)(pintle_host*, pintle_text type, uint32_t is_true, pintle_text reason, pintle_text message); /* [any] */

  /* Buffers with bytes of the host's. Fill `*data` before the buffer is handed out. */
  pintle_code (*buffer_new)(pintle_host*, uint64_t length, pintle_buffer** buffer, uint8_t** data); /* [any] */

  /* Life cycle. */
  pintle_code (*lifecycle_done)(pintle_host*, uint64_t token, const pintle_status*); /* [any] */
  pintle_code (*retired)(pintle_host*); /* [any] a retiring instance owns nothing any more */

  /* Appended. What all instances of the node count, isolated ones too, in Prometheus' text format; for who shows it to others.
   * UNAVAILABLE: this instance runs in a child process. */
  pintle_code (*metrics_text)(pintle_host*, pintle_text_ready, void* context); /* [any] OK: called once */
} pintle_host_api;

/* ---- The plugin's table ---------------------------------------------------------------------------------------------------- */

enum { PINTLE_INSTANCE_RETIRING = 1u, PINTLE_INSTANCE_ISOLATED = 2u };

/* OWNED by the host; valid until `destroy` returns. */
typedef struct pintle_instance_config {
  uint32_t size;
  uint32_t flags;
  pintle_text name;              /* the profile's key, "lan" */
  pintle_text key;               /* name and generation, "lan@3" */
  pintle_text node;              /* the node's name */
  pintle_text config;            /* JSON, valid by the plugin's own schema, defaults filled in */
  pintle_text state_directory;   /* durable, this generation's own, locked by the host */
  pintle_text run_directory;     /* may be emptied at any time between two starts */
  pintle_text shared_directory;  /* durable, shared by all instances of the plugin: lock what you write */
} pintle_instance_config;

typedef struct pintle_plugin {
  uint32_t size;
  uint16_t abi_major, abi_minor;
  pintle_text id;            /* "network-bridge" */
  pintle_text version;       /* semantic version */
  pintle_text manifest;      /* JSON; sdk/schema/manifest.schema.json */
  pintle_text config_schema; /* JSON Schema of `config` */

  /* On failure *status may be set to texts that live until the plugin's next function is called. */
  pintle_code (*create)(const pintle_host_api*, pintle_host*, const pintle_instance_config*, void** instance,
                        pintle_status* status);                                          /* [lane] */
  void (*start)(void* instance, uint64_t token);                                         /* [lane] */
  void (*drain)(void* instance, uint64_t token);                                         /* [lane] */
  void (*retire)(void* instance, uint64_t token);                                        /* [lane] */
  void (*stop)(void* instance, uint64_t token);                                          /* [lane] */
  void (*destroy)(void* instance);                                                       /* [lane] joins its threads */

  void (*handle)(void* instance, const pintle_call*, const pintle_message*);             /* [lane] */
  void (*cancelled)(void* instance, uint64_t call_id);                                   /* [lane] */
  void (*stream_message)(void* instance, uint64_t call_id, const pintle_message*);       /* [lane] from the caller */
  void (*stream_credit)(void* instance, uint64_t call_id, uint32_t credit);              /* [lane] */
  /* The providers that answer need number `need` of the manifest, whenever they change, and before `start`. */
  void (*bindings)(void* instance, uint32_t need, const pintle_binding*, uint32_t count); /* [lane] */
} pintle_plugin;

/* A plugin built by `pintle_plugin()` (CMake) writes only these functions; the table, the note and the texts are generated
 * from its manifest. All must be there; one that has nothing to do returns (or says `lifecycle_done`). */
pintle_code pintle_plugin_create(const pintle_host_api*, pintle_host*, const pintle_instance_config*, void** instance,
                                 pintle_status* status);
void pintle_plugin_start(void* instance, uint64_t token);
void pintle_plugin_drain(void* instance, uint64_t token);
void pintle_plugin_retire(void* instance, uint64_t token);
void pintle_plugin_stop(void* instance, uint64_t token);
void pintle_plugin_destroy(void* instance);
void pintle_plugin_handle(void* instance, const pintle_call*, const pintle_message*);
void pintle_plugin_cancelled(void* instance, uint64_t call_id);
void pintle_plugin_stream_message(void* instance, uint64_t call_id, const pintle_message*);
void pintle_plugin_stream_credit(void* instance, uint64_t call_id, uint32_t credit);
void pintle_plugin_bindings(void* instance, uint32_t need, const pintle_binding*, uint32_t count);

/* ---- The ELF note ---------------------------------------------------------------------------------------------------------- */

#define PINTLE_NOTE_NAME "Pintle"
#define PINTLE_NOTE_TYPE 1u

/* Frozen for ever: a host of any age must read the note of a plugin of any age. */
typedef struct pintle_elf_note {
  uint32_t name_size, descriptor_size, type;
  char name[8]; /* "Pintle", padded */
  uint16_t abi_major, abi_minor;
  uint32_t reserved;
  char id[64];                 /* padded with zeros */
  uint8_t manifest_sha256[32]; /* of the manifest's bytes followed by those of the config schema */
} pintle_elf_note;

#ifdef __cplusplus
}
#endif

#endif
