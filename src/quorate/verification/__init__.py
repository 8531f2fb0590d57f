"""Histories and what judges them; usable on any system, simulated or real."""
