"""Losses; a file has the name of the `--criterion` that it registers."""
