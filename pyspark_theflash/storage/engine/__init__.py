"""Where versions live: one contract, several engines."""
