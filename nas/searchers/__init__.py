"""One search algorithm per file; a YAML in ``nas/conf/searcher`` names it."""
