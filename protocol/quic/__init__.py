"""What a QUIC listener must know of packets that it can't decrypt (RFC 8999, RFC 9000): pure."""
