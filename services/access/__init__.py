"""Who may do what: identities, roles, one table of RPCs, and the snapshot that every process decides from."""
