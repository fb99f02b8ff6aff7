"""How this package reaches servers: a pump to pull from, PD and the etcd in it."""
