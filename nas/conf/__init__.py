"""Configuration files of the command line (an `__init__.py` lets Hydra find them in an installed package)."""
