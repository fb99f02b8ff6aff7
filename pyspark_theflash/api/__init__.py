"""TheFlash API: what programs ask of a store, the same in process and over a connection."""
