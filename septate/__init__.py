"""What people call: the command line, the configuration, and a client of the HTTP API."""

__version__ = "0.1.0"
