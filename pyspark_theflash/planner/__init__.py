"""The read path: a timestamp and a table in, tasks and their rows out."""
