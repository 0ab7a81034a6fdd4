"""Follow the model entities: ``python watch.py [TARGET] [EVENTS]``; ends after that many events, or at Ctrl-C.

The stream begins with everything there is, says SYNCED, and goes on with each change. Keep the last ``resume_token``
to go on from there after a broken connection; OUT_OF_RANGE then means: begin anew without one.
"""

import sys
from itertools import islice

import grpc

from junctor.v1 import watch_pb2
from junctor.v1.model_registry_pb2_grpc import ModelRegistryStub


def main(target: str = "127.0.0.1:50051", events: str = "") -> None:
    """Print each event as it comes."""
    with grpc.insecure_channel(target) as channel:
        stream = ModelRegistryStub(channel).WatchModels(watch_pb2.WatchRequest())
        for event in islice(stream, int(events) if events else None):
            kind = watch_pb2.WatchEventType.Name(event.type).removeprefix("WATCH_EVENT_TYPE_")
            about = f"{event.resource.workspace}/{event.resource.name}" if event.HasField("resource") else ""
            print(f"{kind:9} {about}".rstrip(), f"(revision {event.revision})", flush=True)
        stream.cancel()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        pass
