"""Architectures: one file per registered model name, assembled from `modules` by `_build`."""
