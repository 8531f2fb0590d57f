"""The composition root: what one process is made of, by its configuration."""
