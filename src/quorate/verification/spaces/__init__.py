"""State spaces over the production cores, for the explorer."""
