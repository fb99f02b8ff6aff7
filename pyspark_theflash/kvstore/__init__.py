"""TiKV's side: regions as a raft learner gets them, and the rows and locks in them."""
