"""The second shell: the production code over a virtual clock, network and disk, from one seed, with faults."""
