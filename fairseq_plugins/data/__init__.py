"""Data formats and corruptions, named by what an example looks like (floor 1: numpy, torch and fairseq.data only)."""
