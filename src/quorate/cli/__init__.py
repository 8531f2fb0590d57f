"""The command line: what people and scripts start and read."""
