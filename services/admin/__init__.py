"""``junctor admin``: maintenance of a server's data."""
