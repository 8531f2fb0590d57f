"""The real shell: asyncio on uvloop, TCP, fsync threads, the monotonic clock.

``environment`` says what the code above may see of the world; the other modules give it the real one. The simulator
gives it another. Nothing above this floor imports asyncio, sockets, files or clocks.
"""
