"""One run: its settings, its folder, its files, and what makes each of them."""
