"""What every process of a node shares: loop, sockets, channel to the supervisor, rights, logs, figures."""
