"""What all packages stand on: errors, files, names, trust."""
