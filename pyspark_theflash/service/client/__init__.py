"""Clients of the API: in process, through a private engine process, and over a socket."""
