"""What carries flows out: ``aio`` on an event loop, ``blocking`` in the calling thread. The simulator has its own."""
