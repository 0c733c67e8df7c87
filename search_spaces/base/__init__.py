"""Foundations of all packages: errors, files, names, trust."""
