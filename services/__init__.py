"""What a server process needs: plumbing, four gRPC services, and the composition root."""

import os

# grpc's core reads it once, as it is imported. Its own lines are no news (a peer said goodbye), go past our logging,
# and anybody who reaches a port could have one written for each failed handshake.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
