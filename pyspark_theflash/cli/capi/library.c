/* The part of libtheflash.so that is C: it asks Python, and answers even where there is no Python to ask. */
#include <stdlib.h>
#include <string.h>

#include "theflash.h"

#define FAILURE_BYTES 4096

static void py_open(const char *where, const char *options, theflash_store *store, int *status);
static void py_call(theflash_store store, const char *method, const char *request, uint32_t timeout_ms, char **answer,
                    int *status);
static void py_scan(theflash_store store, const char *ticket, int dictionaries, struct ArrowArrayStream *rows,
                    int *status);
static void py_read(theflash_store store, const char *request, struct ArrowArrayStream *rows, int *status);
static void py_write(theflash_store store, const char *request, struct ArrowArrayStream *rows, uint32_t count,
                     uint32_t timeout_ms, char **written, int *status);
static void py_close(theflash_store store, int *status);

static _Thread_local char failure[FAILURE_BYTES];

static void theflash_fail(const char *text)
{
  strncpy(failure, text, FAILURE_BYTES - 1);
}

static char *theflash_copy(const char *text)
{
  return strdup(text);
}

/* What Python does not overwrite: it was not there. */
static int begin(void)
{
  theflash_fail("InternalError: Python could not be started; stderr says why");
  return THEFLASH_OTHER;
}

CFFI_DLLEXPORT int theflash_open(const char *where, const char *options, theflash_store *store)
{
  int status = begin();
  if (store == NULL) {
    theflash_fail("OptionError: option 'store' is NULL");
    return THEFLASH_USAGE;
  }
  *store = 0;
  py_open(where, options, store, &status);
  return status;
}

CFFI_DLLEXPORT int theflash_call(theflash_store store, const char *method, const char *request, uint32_t timeout_ms,
                                 char **answer)
{
  int status = begin();
  if (answer == NULL) {
    theflash_fail("OptionError: option 'answer' is NULL");
    return THEFLASH_USAGE;
  }
  *answer = NULL;
  py_call(store, method, request, timeout_ms, answer, &status);
  return status;
}

CFFI_DLLEXPORT int theflash_plan(theflash_store store, const char *request, char **plan)
{
  return theflash_call(store, "PlanScan", request, 0, plan);
}

static int check_rows(struct ArrowArrayStream *rows)
{
  if (rows == NULL) {
    theflash_fail("OptionError: option 'rows' is NULL");
    return THEFLASH_USAGE;
  }
  memset(rows, 0, sizeof *rows);
  return THEFLASH_OK;
}

CFFI_DLLEXPORT int theflash_scan(theflash_store store, const char *ticket, int dictionaries,
                                 struct ArrowArrayStream *rows)
{
  int status = begin();
  if (check_rows(rows) != THEFLASH_OK)
    return THEFLASH_USAGE;
  py_scan(store, ticket, dictionaries, rows, &status);
  return status;
}

CFFI_DLLEXPORT int theflash_read(theflash_store store, const char *request, struct ArrowArrayStream *rows)
{
  int status = begin();
  if (check_rows(rows) != THEFLASH_OK)
    return THEFLASH_USAGE;
  py_read(store, request, rows, &status);
  return status;
}

CFFI_DLLEXPORT int theflash_write(theflash_store store, const char *request, struct ArrowArrayStream *rows,
                                  uint32_t count, uint32_t timeout_ms, char **written)
{
  int status = begin();
  if (rows == NULL && count != 0) {
    theflash_fail("OptionError: option 'rows' is NULL");
    return THEFLASH_USAGE;
  }
  if (written == NULL) {
    theflash_fail("OptionError: option 'written' is NULL");
    status = THEFLASH_USAGE;
  } else {
    *written = NULL;
    py_write(store, request, rows, count, timeout_ms, written, &status);
  }
  /* Those that Python did not come to. */
  for (uint32_t at = 0; at < count; ++at)
    if (rows[at].release != NULL)
      rows[at].release(&rows[at]);
  return status;
}

CFFI_DLLEXPORT int theflash_close(theflash_store store)
{
  int status = begin();
  py_close(store, &status);
  return status;
}

CFFI_DLLEXPORT const char *theflash_last_error(void)
{
  return failure;
}

CFFI_DLLEXPORT void theflash_free(char *text)
{
  free(text);
}
