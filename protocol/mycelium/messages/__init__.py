"""The message subsystem: what inner type 1 packets mean, and a message box that needs no I/O (messages spec)."""
