"""What links cost and how they fare: `python -m bench.links`; one section a file."""
