"""Multi-Paxos for one group of members: a replicated log of opaque commands (decision 7 tells which Multi-Paxos this is).

``messages``
    what members say to each other, and what the core asks of its disk and tells its service;
``log``
    the entries that a member holds, and up to where they are chosen;
``acceptor``
    what a member has promised and accepted, and what it answers;
``leader``
    phase 1, the pipeline of phase 2, what is chosen, reads;
``peer``
    a member: acceptor and leader together, elections and time, behind the contract of ``consensus.contract``.

Sources: Lamport, "The Part-Time Parliament" (1998) and "Paxos Made Simple" (2001); Haridi and others, "A Faster, More Robust Sequence
Paxos" (lecture notes and OmniPaxos, 2023) for logs adopted whole; Howard, Malkhi and Spiegelman, "Flexible Paxos" (2016) for
the sizes of quorums; Ongaro, "Consensus: Bridging Theory and Practice" (2014), chapters 6.4 and 9.6, for reads and probes.
"""
