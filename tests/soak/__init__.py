"""Random work on real servers for any duration; `make soak`."""
