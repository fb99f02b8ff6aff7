"""First load: the rows of a cluster at one timestamp, read from TiKV."""
