"""What only the Mycelium overlay (400::/7) has: identity, sealing, framing, control TLVs, routing."""
