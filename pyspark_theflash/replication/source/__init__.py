"""Change streams: binlog files and pumps as sources of prewrites and commits."""
