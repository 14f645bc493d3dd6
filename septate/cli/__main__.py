"""`python -m septate.cli` is the program `septate`."""

from septate.cli import main

main()
