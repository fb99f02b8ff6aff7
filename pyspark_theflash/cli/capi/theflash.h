/* TheFlash API for C and all that can call it. Link with -ltheflash.
 *
 *   theflash_store store;
 *   struct ArrowArrayStream rows;
 *   if (theflash_open("/data/store", NULL, &store) != 0 ||
 *       theflash_read(store, "{\"table\": \"db.table\"}", &rows) != 0)
 *       fprintf(stderr, "%s\n", theflash_last_error());
 *
 * Every function returns 0, or why it failed; the numbers are the exit statuses of `theflash`. All may be called by
 * many threads. Texts are UTF-8. Requests and answers are the messages of protos/theflash/v1/theflash.proto in
 * protobuf's canonical JSON form: numbers of 64 bits are texts, bytes are base64. A timestamp is a TSO, or a time with
 * its zone such as "2026-11-21T09:05:30.250+08:00".
 *
 * The library runs a Python interpreter inside of the process, that which it was built with, and starts it with the
 * first call. THEFLASH_SITE_PACKAGES names another folder of packages than that of the build.
 */
#ifndef THEFLASH_H
#define THEFLASH_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* https://arrow.apache.org/docs/format/CStreamInterface.html */
#ifndef ARROW_C_STREAM_INTERFACE
#define ARROW_C_STREAM_INTERFACE

#ifndef ARROW_C_DATA_INTERFACE
#define ARROW_C_DATA_INTERFACE

#define ARROW_FLAG_DICTIONARY_ORDERED 1
#define ARROW_FLAG_NULLABLE 2
#define ARROW_FLAG_MAP_KEYS_SORTED 4

struct ArrowSchema {
  const char *format;
  const char *name;
  const char *metadata;
  int64_t flags;
  int64_t n_children;
  struct ArrowSchema **children;
  struct ArrowSchema *dictionary;
  void (*release)(struct ArrowSchema *);
  void *private_data;
};

struct ArrowArray {
  int64_t length;
  int64_t null_count;
  int64_t offset;
  int64_t n_buffers;
  int64_t n_children;
  const void **buffers;
  struct ArrowArray **children;
  struct ArrowArray *dictionary;
  void (*release)(struct ArrowArray *);
  void *private_data;
};

#endif

struct ArrowArrayStream {
  int (*get_schema)(struct ArrowArrayStream *, struct ArrowSchema *out);
  int (*get_next)(struct ArrowArrayStream *, struct ArrowArray *out);
  const char *(*get_last_error)(struct ArrowArrayStream *);
  void (*release)(struct ArrowArrayStream *);
  void *private_data;
};

#endif

enum theflash_status {
  THEFLASH_OK = 0,
  THEFLASH_USAGE = 2,        /* an argument, option or request that does not fit */
  THEFLASH_NOT_FOUND = 3,    /* no such store, table or latch */
  THEFLASH_NOT_READABLE = 4, /* the timestamp cannot be answered (now) */
  THEFLASH_IN_USE = 5,       /* somebody else holds the store */
  THEFLASH_CORRUPTION = 6,
  THEFLASH_OTHER = 7
};

typedef uint64_t theflash_store;

/* Open the store in a folder, or the one that is served at `unix:PATH` or `theflash://HOST:PORT`.
 *
 * `options`: NULL, or a JSON object with what a server asks for, each the path of a file: "token_file", and for TLS
 * "tls_ca", "tls_cert", "tls_key". A server is called when something is asked of it. */
int theflash_open(const char *where, const char *options, theflash_store *store);

/* Make a call of the API, "GetStatus" for instance, with its request, NULL for an empty one. `*answer` is to be freed
 * with `theflash_free`. `timeout_ms`: 0 for the longest there is. */
int theflash_call(theflash_store store, const char *method, const char *request, uint32_t timeout_ms, char **answer);

/* Divide a scan into splits: the call "PlanScan". `*plan` is to be freed with `theflash_free`. */
int theflash_plan(theflash_store store, const char *request, char **plan);

/* The rows of a split of a plan, by the split's "ticket". Strings of few different values come as dictionaries if
 * `dictionaries` is not 0. The stream fails, and does not end, where rows are missing. */
int theflash_scan(theflash_store store, const char *ticket, int dictionaries, struct ArrowArrayStream *rows);

/* All rows of a scan in one stream: a plan for the request, and the rows of its splits. */
int theflash_read(theflash_store store, const char *request, struct ArrowArrayStream *rows);

/* Write row versions, schema changes and progress: all at once and durably, or nothing. The call "Write".
 *
 * `request` is a WriteRequest: the "latches" that it is done under (see the call "AcquireLatch"), and the "tables" whose
 * rows come. Of these, `rows` has `count` streams in the same order, NULL if there are none. A stream is of row versions:
 *
 *   _handle     int64 | binary   the row's handle; sorted by it, then by _commit_ts
 *   _commit_ts  uint64           from when the version holds
 *   _start_ts   uint64           the transaction that wrote it
 *   _op         uint8            0 a delete, whose columns are null, 1 the row from now on
 *   c1, c2 ...                   the table's columns, by their ids in TiDB
 *
 * The streams are taken and released, whatever becomes of the write. `*written` is a Written, to be freed with
 * `theflash_free`. Where it is not known what became of a write, the same may come again: what was applied before is
 * left out. */
int theflash_write(theflash_store store, const char *request, struct ArrowArrayStream *rows, uint32_t count,
                   uint32_t timeout_ms, char **written);

/* Close a store; streams that have begun go on. */
int theflash_close(theflash_store store);

/* Why the last call that failed in this thread did: `ErrorName: text`. Good until the next call in this thread. */
const char *theflash_last_error(void);

/* Free what a call gave out; NULL is nothing. */
void theflash_free(char *text);

#ifdef __cplusplus
}
#endif

#endif
