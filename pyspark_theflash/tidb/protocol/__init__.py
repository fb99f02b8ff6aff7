"""Messages of TiDB's world: stubs that `protos/generate.py` makes, nothing by hand.

Only a package's `wire.py` imports them, to turn a message into a value of its own.
"""
