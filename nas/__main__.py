"""``python -m nas`` is the command ``nas``."""

from nas.commands.cli import main

if __name__ == "__main__":
    main()
