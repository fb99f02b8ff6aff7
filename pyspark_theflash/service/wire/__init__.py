"""Messages and frames of the API as bytes, and the connections that carry them."""
