"""The base of errors that a person caused and a person can mend: one line on standard error, exit code 1."""

from __future__ import annotations


class UserError(Exception):
    """The text names the thing, the reason and the way out."""
