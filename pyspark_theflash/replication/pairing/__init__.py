"""Matching of prewrites and commits; pending and finished transactions."""
