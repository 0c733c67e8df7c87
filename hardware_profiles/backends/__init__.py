"""One backend per file; a device profile names the file."""
