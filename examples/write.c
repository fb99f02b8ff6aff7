/* Writes a table of two columns into a new store, and a second version of one of its rows.
 *
 *   cc write.c -I LIB -L LIB -Wl,-rpath,LIB -ltheflash -o write && theflash init STORE && ./write STORE
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "theflash.h"

#define ROWS 3
#define FIELDS 6

/* Rows 1 and 2 at timestamp 110, and row 1 once more at 120: sorted by handle, then by commit. */
static const int64_t handles[ROWS] = {1, 1, 2};
static const uint64_t commits[ROWS] = {110, 120, 110};
static const uint64_t starts[ROWS] = {105, 115, 105};
static const uint8_t ops[ROWS] = {1, 1, 1};
static const int32_t ends[ROWS + 1] = {0, 3, 12, 16};
static const char texts[] = "teagreen teamilk";

static const char *const names[FIELDS] = {"_handle", "_commit_ts", "_start_ts", "_op", "c1", "c2"};
static const char *const formats[FIELDS] = {"l", "L", "L", "C", "l", "u"};
static const void *const values[FIELDS] = {handles, commits, starts, ops, handles, ends};

/* One batch is all, and lives in here: there is nothing to free. */
static struct ArrowSchema columns[FIELDS], *column_list[FIELDS];
static struct ArrowArray arrays[FIELDS], *array_list[FIELDS];
static const void *buffers[FIELDS][3], *no_validity[1];

static void release_schema(struct ArrowSchema *schema) { schema->release = NULL; }
static void release_array(struct ArrowArray *array) { array->release = NULL; }
static void release_stream(struct ArrowArrayStream *stream) { stream->release = NULL; }
static const char *last_error(struct ArrowArrayStream *stream) { return stream->private_data ? NULL : "?"; }

static int get_schema(struct ArrowArrayStream *stream, struct ArrowSchema *out)
{
  (void)stream;
  for (int n = 0; n < FIELDS; ++n) {
    columns[n] = (struct ArrowSchema){.format = formats[n], .name = names[n], .release = release_schema};
    if (n >= 4)
      columns[n].flags = ARROW_FLAG_NULLABLE;
    column_list[n] = &columns[n];
  }
  *out = (struct ArrowSchema){.format = "+s", .name = "", .release = release_schema};
  out->n_children = FIELDS;
  out->children = column_list;
  return 0;
}

static int get_next(struct ArrowArrayStream *stream, struct ArrowArray *out)
{
  int *is_done = stream->private_data;
  memset(out, 0, sizeof *out);
  if (*is_done) /* A batch that has been released is the end. */
    return 0;
  *is_done = 1;
  for (int n = 0; n < FIELDS; ++n) {
    buffers[n][1] = values[n];
    buffers[n][2] = texts;
    arrays[n] = (struct ArrowArray){.length = ROWS, .n_buffers = n == FIELDS - 1 ? 3 : 2, .release = release_array};
    arrays[n].buffers = buffers[n];
    array_list[n] = &arrays[n];
  }
  out->length = ROWS;
  out->n_buffers = 1;
  out->buffers = no_validity;
  out->n_children = FIELDS;
  out->children = array_list;
  out->release = release_array;
  return 0;
}

/* As TiDB tells of a table: types 8 BIGINT (flag 3: NOT NULL, primary key) and 15 VARCHAR. */
#define TEXT(s) "\\\"" s "\\\""
#define COLUMN(id, offset, name, type, flag)                                                                           \
  "{" TEXT("id") ": " id ", " TEXT("offset") ": " offset ", " TEXT("name") ": {" TEXT("O") ": " TEXT(name) "}, "       \
  TEXT("state") ": 5, " TEXT("type") ": {" TEXT("Tp") ": " type ", " TEXT("Flag") ": " flag ", " TEXT("Flen") ": 20, " \
  TEXT("Decimal") ": -1, " TEXT("Charset") ": " TEXT("utf8mb4") ", " TEXT("Collate") ": " TEXT("utf8mb4_bin") ", "     \
  TEXT("Elems") ": null}}"

static const char *const table_info =
    "{" TEXT("id") ": 7, " TEXT("name") ": {" TEXT("O") ": " TEXT("items") "}, " TEXT("pk_is_handle") ": true, "
    TEXT("cols") ": [" COLUMN("1", "0", "id", "8", "3") ", " COLUMN("2", "1", "name", "15", "0") "]}";

/* The text of a field that is a string, in what a call has answered. */
static int find(const char *answer, const char *field, char *text, size_t size)
{
  const char *at = strstr(answer, field), *end;
  if (at == NULL || (at = strchr(at + strlen(field), '"')) == NULL || (end = strchr(++at, '"')) == NULL)
    return -1;
  return snprintf(text, size, "%.*s", (int)(end - at), at) < (int)size ? 0 : -1;
}

static int fail(const char *what, const char *why)
{
  fprintf(stderr, "%s: %s\n", what, why);
  return EXIT_FAILURE;
}

int main(int argc, char **argv)
{
  char id[80], token[32], request[2048], *answer;
  int is_done = 0;
  theflash_store store;
  struct ArrowArrayStream rows = {get_schema, get_next, last_error, release_stream, &is_done};

  if (argc != 2)
    return fail(argv[0], "STORE");
  if (theflash_open(argv[1], NULL, &store) != THEFLASH_OK)
    return fail(argv[1], theflash_last_error());
  /* Schema and progress are the store's: they want a latch on all of it. */
  if (theflash_call(store, "AcquireLatch", "{\"kind\": \"write\", \"name\": \"write.c\"}", 0, &answer) != THEFLASH_OK)
    return fail("AcquireLatch", theflash_last_error());
  if (find(answer, "\"id\":", id, sizeof id) != 0 || find(answer, "\"token\":", token, sizeof token) != 0)
    return fail("AcquireLatch", answer);
  theflash_free(answer);
  snprintf(request, sizeof request,
           "{\"latches\": [{\"id\": \"%s\", \"token\": \"%s\"}], \"tables\": [{\"tableId\": \"7\"}],"
           " \"schema\": [{\"ts\": \"100\", \"db\": \"shop\", \"tableId\": \"7\", \"tableInfo\": \"%s\"}],"
           " \"startTs\": \"100\", \"resolvedTs\": \"200\"}",
           id, token, table_info);
  if (theflash_write(store, request, &rows, 1, 0, &answer) != THEFLASH_OK)
    return fail("Write", theflash_last_error());
  printf("%s\n", answer);
  theflash_free(answer);
  snprintf(request, sizeof request, "{\"id\": \"%s\", \"token\": \"%s\"}", id, token);
  if (theflash_call(store, "ReleaseLatch", request, 0, &answer) != THEFLASH_OK)
    return fail("ReleaseLatch", theflash_last_error());
  theflash_free(answer);
  return theflash_close(store) == THEFLASH_OK ? EXIT_SUCCESS : fail("close", theflash_last_error());
}
