"""Operators that programs are made of, one family per file."""
