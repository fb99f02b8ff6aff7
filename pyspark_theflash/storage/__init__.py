"""Versions of rows: which are visible, the manifest, and the engines that keep them."""
