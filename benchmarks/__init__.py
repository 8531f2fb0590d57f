"""Ours beside the originals, in the same run on the same machine."""
