"""TheFlash API: a store as a service, in process and over connections."""
