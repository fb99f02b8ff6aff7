"""Plan scans: a timestamp and a table to tasks, and tasks to rows."""
