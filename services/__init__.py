"""What a server process needs: plumbing, four gRPC services, and the composition root."""
