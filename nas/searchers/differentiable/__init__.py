"""Searchers that learn the choices by gradient descent, each in its own file."""
