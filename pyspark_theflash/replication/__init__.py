"""Write path: applies binlogs and API writes to a store as publications."""
