"""SQL over a snapshot, and what is made of rows beside the data."""
