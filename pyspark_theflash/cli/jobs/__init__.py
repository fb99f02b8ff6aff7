"""What runs on its own: the writer, and how every command ends."""
