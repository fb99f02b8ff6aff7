"""Random work on real servers for as long as one likes; `make soak`."""
