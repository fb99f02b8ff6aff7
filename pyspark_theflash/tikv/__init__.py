"""A raft learner of TiKV's regions, and snapshot reads from it.

wire, request              messages of enginepb and raft_cmdpb
command, region            raft commands, and their effect on regions
versions, pending          decoded commits; entries of column families without an outcome yet
cache, region_store        all regions in memory: versions, locks, long rows
region_snapshot            a region's raft snapshot, which replaces the region's content
flush, learner             publications to the engine; the learner as a whole
tables, schema, rows       physical tables, their definitions and columns
read, memory_versions      reads of a table at a timestamp
learner_read               read index, waiting, locks and validation of a read
origin, overlay            scans planned over the files and the memory
server, upkeep, metadata   TiKV's gRPC service; background work; metadata tables
"""
