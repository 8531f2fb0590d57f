"""A ZooKeeper-compatible coordination service: wire codec, sessions, the tree of znodes, and the member that serves it.

Formats and behaviour are Apache ZooKeeper's (3.8 where versions differ, newer where a security fix changed it).
"""
