"""Run the writer as a Spark job: `spark-submit pyspark_theflash/jobs/writer.py STORE ...`.

It has a SparkContext, without which a cluster manager takes the driver for hung and ends it.
Executors decode and write the rows if STORE is `delta:PATH`; otherwise it runs in the driver alone.
It ends after its poll, as with SIGTERM, if the context is stopped or the driver's JVM ends.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from py4j.protocol import Py4JError
from pyspark import SparkConf, SparkContext

from pyspark_theflash.base.errors import UsageError
from pyspark_theflash.base.log import start_log
from pyspark_theflash.cli.jobs import writer
from pyspark_theflash.cli.jobs.outcome import run_command
from pyspark_theflash.cli.jobs.place import DELTA, is_folder
from pyspark_theflash.spark.jar import DELTA_CONF

LOOK_S: Final = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the writer and return its exit status."""
    start_log()
    return run_command(lambda: _run(writer.argument_parser().parse_args(argv)))


def _run(arguments: argparse.Namespace) -> int:
    SparkContext._ensure_initialized()
    conf = SparkConf()
    _check_place(arguments.store, conf.get("spark.submit.deployMode", "client"))
    if conf.get("spark.app.name", "") in ("", Path(sys.argv[0]).name):
        # Without --name, spark-submit gives the job the name of its script.
        conf.setAppName(f"theflash writer {arguments.store}")
    if arguments.store.startswith(DELTA):
        for name, value in DELTA_CONF.items():
            conf.setIfMissing(name, value)
    with _running(conf):
        return writer.run(arguments)


def _check_place(store: str, deploy_mode: str) -> None:
    """Raise `UsageError` if a store would be in the temporary folder of a cluster's driver."""
    if deploy_mode == "cluster" and is_folder(store) and not Path(store).is_absolute():
        reason = "is relative to the driver's temporary folder"
        raise UsageError(f"STORE {store} {reason}: give a server's address, or an absolute path")


@contextmanager
def _running(conf: SparkConf) -> Iterator[None]:
    """Create a SparkContext for the block, and end the process's writer when the context ends."""
    context = SparkContext.getOrCreate(conf)
    ended = threading.Event()
    is_stopped = context._jsc.sc().isStopped
    watch = threading.Thread(target=_watch, args=(is_stopped, ended), daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()
        # The JVM may have ended before.
        with suppress(OSError, Py4JError):
            context.stop()


def _watch(is_stopped: Callable[[], bool], ended: threading.Event) -> None:
    """Send SIGTERM to this process when the context is stopped, or the JVM does not answer."""
    while not ended.wait(LOOK_S):
        try:
            is_over = is_stopped()
        except (OSError, Py4JError):
            is_over = True
        if is_over:
            os.kill(os.getpid(), signal.SIGTERM)
            return


if __name__ == "__main__":
    sys.exit(main())
