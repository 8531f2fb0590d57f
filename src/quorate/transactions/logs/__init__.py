"""Where decisions lie: ``local`` in a file, ``kv`` in our own store, replicated by Multi-Paxos, ``zookeeper`` in an ensemble, Apache's or ours."""
