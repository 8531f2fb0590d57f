"""Simulated ZooKeeper ensembles: production members and clients on virtual machines."""
