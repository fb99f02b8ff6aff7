"""A demonstration: `make demo`, or `python -m demo`."""
