"""The processes of a node: one file per kind, and the runtime that they share."""
