/* Counts the rows of a table, and prints the columns that it has.
 *
 *   cc scan.c -I LIB -L LIB -Wl,-rpath,LIB -ltheflash -o scan && ./scan STORE DB.TABLE [TSO or time]
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "theflash.h"

static int fail(const char *what, const char *why)
{
  fprintf(stderr, "%s: %s\n", what, why ? why : "?");
  return EXIT_FAILURE;
}

int main(int argc, char **argv)
{
  char request[512];
  theflash_store store;
  struct ArrowArrayStream rows;
  struct ArrowSchema schema;
  struct ArrowArray batch;
  int64_t count = 0;
  int status;

  if (argc < 3 || argc > 4)
    return fail(argv[0], "STORE DB.TABLE [TSO or time]");
  if (theflash_open(argv[1], NULL, &store) != THEFLASH_OK)
    return fail(argv[1], theflash_last_error());
  if (argc == 4)
    snprintf(request, sizeof request, "{\"table\": \"%s\", \"moment\": {\"snapshotTs\": \"%s\"}}", argv[2], argv[3]);
  else
    snprintf(request, sizeof request, "{\"table\": \"%s\"}", argv[2]);
  if (theflash_read(store, request, &rows) != THEFLASH_OK)
    return fail(argv[2], theflash_last_error());
  if (rows.get_schema(&rows, &schema) != 0)
    return fail(argv[2], rows.get_last_error(&rows));
  for (int64_t at = 0; at < schema.n_children; ++at)
    printf("%s: %s\n", schema.children[at]->name, schema.children[at]->format);
  schema.release(&schema);
  /* The end is a batch that has been released; anything else that is no batch is an error. */
  for (;;) {
    memset(&batch, 0, sizeof batch);
    if (rows.get_next(&rows, &batch) != 0)
      return fail(argv[2], rows.get_last_error(&rows));
    if (batch.release == NULL)
      break;
    count += batch.length;
    batch.release(&batch);
  }
  rows.release(&rows);
  printf("%" PRId64 " rows\n", count);
  status = theflash_close(store);
  return status == THEFLASH_OK ? EXIT_SUCCESS : fail("close", theflash_last_error());
}
