"""Row versions, and which of them a snapshot sees. No I/O."""
