"""TiKV's side: what a raft learner is sent of regions, and reading it as TiDB would.

wire, request          messages of enginepb and raft_cmdpb, taken apart
lock, write, record    the values of TiKV's column families
region, command        what regions are, and what is done to them
cache, store           all regions in memory: versions, locks, long rows
snapshot               a region's whole content, in the place of what was there
flush, learner         from memory into the engine; the whole, with its errors and limits
tables, rows           whose rows they are, and their columns
read, resolve          a table at a timestamp; locks in the way
"""
