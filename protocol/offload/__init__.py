"""Large packets: what the kernel's TUN device leaves to whoever reads it, and what it takes from whoever writes it."""
