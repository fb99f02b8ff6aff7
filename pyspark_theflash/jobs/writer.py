"""Run the writer as a Spark job: `spark-submit pyspark_theflash/jobs/writer.py STORE ...`."""

import sys

from pyspark_theflash.cli.jobs.writer import main

if __name__ == "__main__":
    sys.exit(main())
