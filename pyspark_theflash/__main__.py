"""The command line: `python -m pyspark_theflash`."""

import sys

from pyspark_theflash.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
