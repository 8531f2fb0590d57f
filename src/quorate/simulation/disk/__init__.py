"""A virtual disk with everything that POSIX lets a crash do to it.

``device``
    the disk of a process: batches, completions, crashes in their midst, failing syncs;
``files``
    what outlives processes: names and contents, what of them a loss of power leaves, full disks, flipped bits;
``content``
    one file's bytes, and how to take back what was not synced;
``survival``
    which of the unsynced changes to a file's content survive a loss of power.
"""
