"""Mixture of experts: routers, dispatch, experts and the feed-forward that joins them."""
