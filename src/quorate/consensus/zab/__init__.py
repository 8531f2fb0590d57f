"""Zab, the atomic broadcast inside ZooKeeper, as cores without I/O.

Sources: Junqueira, Reed, Serafini, "Zab: High-performance broadcast for primary-backup systems" (DSN 2011); the Zab 1.0
phases as Apache ZooKeeper speaks them on its election and quorum ports; and the bugs that Apache found in its own
synchronisation phase (ZOOKEEPER-3911, 4643, 4646, 4785), whose order of writes is the rule here.

A member's life, epoch by epoch:

1. *Election* (``election``): members exchange notifications on the election port until a quorum agrees on the member
   with the greatest (current epoch, last zxid, sid). A hint only: nothing below relies on it for safety.
2. *Discovery* (``leader``, ``learner``): a quorum tells the prospective leader its accepted epochs; the leader proposes
   a greater one; each member makes it durable before it acknowledges, and thereby refuses older leaders for good.
   A leader that meets a more recent history gives up.
3. *Synchronisation*: the leader brings each learner to its own history (DIFF, TRUNC or SNAP), then NEWLEADER. A learner
   makes the history durable, then the current epoch, and only then acknowledges. A quorum of those commits the history.
4. *Broadcast*: the leader numbers proposals, learners log and acknowledge them, a quorum commits them in order.

``history`` holds the entries a member knows; ``peer`` is the whole member as one core by ``consensus.contract``;
``standalone`` is the core of an ensemble of one. ``wire`` is Apache's bytes, ``links`` the connections that carry them.

Only committed entries reach the service. After a restart a member does not know which of its logged entries are
committed, so none of them is applied before an epoch is established; a truncated entry was therefore never applied.
"""
