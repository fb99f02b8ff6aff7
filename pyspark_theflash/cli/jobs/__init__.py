"""Processes that run for long: the writer and the learner, and the exit status of every command."""
