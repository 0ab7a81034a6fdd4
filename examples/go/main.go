// Junctor from Go: a chat, a stream that is cancelled half-way, an error with its details, and a Watch.
//
// Generate the stubs first, into a folder "junctor/v1" of your module or GOPATH:
//
//	junctor protos export protos
//	cd protos && protoc --descriptor_set_in=descriptor_set.binpb --go_out=.. --go-grpc_out=.. junctor/v1/*.proto
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "junctor/v1"
)

func main() {
	target := flag.String("target", "127.0.0.1:50051", "gRPC port of junctor")
	model := flag.String("model", "default/demo-echo-1", "model to ask")
	flag.Parse()

	connection, err := grpc.Dial(*target, grpc.WithInsecure()) // on loopback; elsewhere give credentials
	if err != nil {
		log.Fatalf("dial: %v", err)
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	inference := pb.NewInferenceClient(connection)
	steps := []struct {
		name string
		run  func() error
	}{
		{"chat", func() error { return chat(ctx, inference, *model) }},
		{"stream", func() error { return stream(ctx, inference, *model) }},
		{"cancel", func() error { return cancelled(ctx, inference, *model) }},
		{"error", func() error { return details(ctx, inference) }},
		{"watch", func() error { return watch(ctx, pb.NewModelRegistryClient(connection)) }},
	}
	for _, step := range steps {
		if err := step.run(); err != nil {
			log.Fatalf("%s: %v", step.name, err)
		}
	}
}

func question(model, text string) *pb.ChatCompletionRequest {
	role := "user"
	part := &pb.ContentPart{Part: &pb.ContentPart_Text{Text: text}}
	return &pb.ChatCompletionRequest{
		Target:   &pb.ChatCompletionRequest_Model{Model: model},
		Messages: []*pb.ChatMessage{{Role: &role, Content: []*pb.ContentPart{part}}},
	}
}

// chat asks once and prints the answer, and who gave it.
func chat(ctx context.Context, client pb.InferenceClient, model string) error {
	answer, err := client.CreateChatCompletion(ctx, question(model, "Hello from Go"))
	if err != nil {
		return err
	}
	if len(answer.Choices) == 0 || len(answer.Choices[0].GetMessage().GetContent()) == 0 {
		return errors.New("an answer without text")
	}
	text := answer.Choices[0].Message.Content[0].GetText()
	fmt.Printf("chat: %q by %s\n", text, answer.GetRoute().GetProvider())
	return nil
}

// stream reads an answer as it comes. Only the verdict says that it is whole.
func stream(ctx context.Context, client pb.InferenceClient, model string) error {
	events, err := client.StreamChatCompletion(ctx, question(model, "Stream to Go"))
	if err != nil {
		return err
	}
	text, verdict := "", pb.Verdict_VERDICT_UNSPECIFIED
	for {
		event, err := events.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		text += event.GetDelta().GetContent()
		if event.GetVerdict() != nil {
			verdict = event.GetVerdict().Verdict
		}
	}
	fmt.Printf("stream: %q, %s\n", text, verdict)
	if text == "" || verdict != pb.Verdict_VERDICT_COMPLETE {
		return errors.New("the answer is not complete")
	}
	return nil
}

// cancelled stops after the first text; junctor then aborts the call to the provider at once.
func cancelled(parent context.Context, client pb.InferenceClient, model string) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	events, err := client.StreamChatCompletion(ctx, question(model, "a long text that nobody wants to read to its end"))
	if err != nil {
		return err
	}
	for {
		event, err := events.Recv()
		if status.Code(err) == codes.Canceled {
			fmt.Println("cancel: stopped")
			return nil
		}
		if err != nil {
			return fmt.Errorf("want CANCELLED, got %v", err)
		}
		if event.GetDelta().GetContent() != "" {
			cancel()
		}
	}
}

// details asks for a model that is not there and reads why the call failed, as a program would.
func details(ctx context.Context, client pb.InferenceClient) error {
	_, err := client.CreateChatCompletion(ctx, question("default/no-such-model", "Hello"))
	failure, ok := status.FromError(err)
	if err == nil || !ok {
		return fmt.Errorf("want a status, got %v", err)
	}
	for _, detail := range failure.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			fmt.Printf("error: %s, reason %s, domain %s\n", failure.Code(), info.Reason, info.Domain)
			return nil
		}
	}
	return fmt.Errorf("no ErrorInfo in %v", failure.Details())
}

// watch prints the model entities there are. To follow the changes, go on reading after SYNCED; to resume later,
// start with the last event's token.
func watch(parent context.Context, client pb.ModelRegistryClient) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	events, err := client.WatchModels(ctx, &pb.WatchRequest{})
	if err != nil {
		return err
	}
	for {
		event, err := events.Recv()
		if err != nil {
			return err
		}
		switch event.Type {
		case pb.WatchEventType_WATCH_EVENT_TYPE_UPSERTED:
			fmt.Printf("watch: %s/%s\n", event.Resource.Workspace, event.Resource.Name)
		case pb.WatchEventType_WATCH_EVENT_TYPE_SYNCED:
			fmt.Printf("watch: synced at revision %d\n", event.Revision)
			return nil
		}
	}
}
