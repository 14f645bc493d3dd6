"""Who may reach this host from the overlay: the inbound allow-list of the TUN device, without I/O."""
