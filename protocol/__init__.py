"""The pure part of a node: no socket, file, clock, randomness, log, thread or process."""
