// List the model entities and follow every change, also across restarts of the registry.
//
// What to copy: take the token of each event after the event itself, resume with the last one, wait longer after each
// failure, and begin anew only when the registry no longer knows the token. Then nothing is lost, doubled or reordered.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"math/rand"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "junctor/v1"
)

const shortest, longest, silence = 100 * time.Millisecond, 5 * time.Second, 20 * time.Second

type follower struct {
	client pb.ModelRegistryClient
	token  string
	pause  time.Duration
}

func main() {
	target := flag.String("target", "127.0.0.1:50052", "gRPC port of the model registry")
	until := flag.String("until", "", "stop once this model (workspace/name) exists")
	flag.Parse()
	rand.Seed(time.Now().UnixNano())
	again := backoff.Config{BaseDelay: shortest, Multiplier: 2, Jitter: 0.2, MaxDelay: longest}
	connection, err := grpc.Dial(*target, grpc.WithInsecure(), // on loopback; elsewhere give credentials
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: again, MinConnectTimeout: longest}))
	if err != nil {
		log.Fatalf("dial: %v", err)
	}
	defer connection.Close()
	f := follower{client: pb.NewModelRegistryClient(connection), pause: shortest}
	for {
		err := f.follow(*until)
		if err == nil {
			return
		}
		if status.Code(err) == codes.OutOfRange { // the token is too old, or of another store
			f.token = ""
		}
		fmt.Printf("away %s\n", status.Code(err))
		time.Sleep(f.pause/2 + time.Duration(rand.Int63n(int64(f.pause/2)))) // jitter: not all clients at once
		if f.pause *= 2; f.pause > longest {
			f.pause = longest
		}
	}
}

// follow prints events until the stream breaks (the error) or the model is there (nil).
func (f *follower) follow(until string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dead := time.AfterFunc(silence, cancel) // a heartbeat comes every 5 s: longer silence is a dead connection
	defer dead.Stop()
	resumed := f.token != ""
	events, err := f.client.WatchModels(ctx, &pb.WatchRequest{ResumeToken: f.token}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	for {
		event, err := events.Recv()
		if err != nil {
			return err
		}
		name := fmt.Sprintf("%s/%s", event.GetResource().GetWorkspace(), event.GetResource().GetName())
		switch event.Type {
		case pb.WatchEventType_WATCH_EVENT_TYPE_UPSERTED:
			fmt.Printf("exists %s %d\n", name, event.Revision)
		case pb.WatchEventType_WATCH_EVENT_TYPE_DELETED:
			fmt.Printf("gone %s %d\n", name, event.Revision)
		case pb.WatchEventType_WATCH_EVENT_TYPE_SYNCED:
			fmt.Printf("synced resumed=%t %d\n", resumed, event.Revision)
		}
		f.token, f.pause = event.ResumeToken, shortest // a snapshot's events have no token: cut, it begins anew
		dead.Reset(silence)
		if event.Type == pb.WatchEventType_WATCH_EVENT_TYPE_UPSERTED && name == until {
			return nil
		}
	}
}
