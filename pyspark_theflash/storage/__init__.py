"""Row versions: visibility, the manifest, and the storage engines."""
