"""The router of the Mycelium overlay: a dialect of Babel without I/O (wire spec 7)."""
