"""Tasks, one file each, named as registered."""
