"""Optimisers; a file has the name of the `--optimizer` that it registers."""
