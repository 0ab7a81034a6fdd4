"""Who and where: workspaces; later keys, members and audit."""
