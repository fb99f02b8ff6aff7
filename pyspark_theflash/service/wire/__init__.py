"""Messages, frames and connections of the API."""
