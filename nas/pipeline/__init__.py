"""The stages of a run: checked, planned, run, continued."""
