"""What is written from the command line itself: completions, man page, command reference. `make manual` makes it."""
