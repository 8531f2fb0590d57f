"""Durable state, seen through the small :class:`~quorate.storage.disk.Disk`."""
