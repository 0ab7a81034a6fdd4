// Typed inference from Go as docs/grpc.md describes it: a chat, a stream that is cancelled, an error with its details, a
// stream that stays alive while the model is silent, and embeddings that are larger than one message may be.
//
// Stubs are generated as for examples/go.
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
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "junctor/v1"
)

// What is repeated is what was never begun and what says when to come back; see docs/grpc.md.
const serviceConfig = `{
  "loadBalancingConfig": [{"round_robin": {}}],
  "methodConfig": [{
    "name": [{"service": "junctor.v1.Inference"}],
    "retryPolicy": {
      "maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "2s", "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"]
    }
  }],
  "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.2}
}`

type asker struct {
	client       pb.InferenceClient
	model, embed string
	inputs       int
}

func main() {
	target := flag.String("target", "127.0.0.1:50051", "gRPC port of the router")
	asks := asker{}
	flag.StringVar(&asks.model, "model", "default/demo-echo-1", "model to chat with")
	flag.StringVar(&asks.embed, "embed-model", "default/demo-embed-1", "model to make embeddings with")
	flag.IntVar(&asks.inputs, "inputs", 320, "how many embeddings to ask for")
	say := flag.String("say", "a long text that nobody wants to read to its end", "what the long stream is asked")
	flag.Parse()

	connection, err := grpc.Dial(*target,
		grpc.WithInsecure(), // on loopback; elsewhere give credentials
		grpc.WithDefaultServiceConfig(serviceConfig),
		// The shortest time that junctor and Go allow; 20 s will do for most.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, PermitWithoutStream: true}),
	)
	if err != nil {
		log.Fatalf("dial: %v", err)
	}
	defer connection.Close()
	asks.client = pb.NewInferenceClient(connection)

	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	steps := []struct {
		name string
		run  func(context.Context) error
	}{
		{"chat", asks.chat},
		{"cancel", asks.cancelled},
		{"error", asks.details},
		{"embeddings", asks.embeddings},
		{"stream", func(ctx context.Context) error { return asks.stream(ctx, *say) }},
	}
	for _, step := range steps {
		if err := step.run(ctx); err != nil {
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

// chat asks once. The deadline caps all that junctor tries.
func (a asker) chat(parent context.Context) error {
	ctx, cancel := context.WithTimeout(parent, 30*time.Second)
	defer cancel()
	answer, err := a.client.CreateChatCompletion(ctx, question(a.model, "Hello from Go"))
	if err != nil {
		return err
	}
	if len(answer.Choices) == 0 || len(answer.Choices[0].GetMessage().GetContent()) == 0 {
		return errors.New("an answer without text")
	}
	fmt.Printf("chat: %q by %s\n", answer.Choices[0].Message.Content[0].GetText(), answer.GetRoute().GetProvider())
	return nil
}

// cancelled stops after the first text; junctor closes the connection to the provider at once.
func (a asker) cancelled(parent context.Context) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	events, err := a.client.StreamChatCompletion(ctx, question(a.model, "endless"))
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

// details reads why a call failed, and whether it may be repeated.
func (a asker) details(ctx context.Context) error {
	var trailer metadata.MD
	request := question("default/no-such-model", "Hello")
	_, err := a.client.CreateChatCompletion(ctx, request, grpc.Trailer(&trailer))
	failure, ok := status.FromError(err)
	if err == nil || !ok {
		return fmt.Errorf("want a status, got %v", err)
	}
	for _, detail := range failure.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			fmt.Printf("error: %s, reason %s, domain %s, pushback %v\n",
				failure.Code(), info.Reason, info.Domain, trailer.Get("grpc-retry-pushback-ms"))
			return nil
		}
	}
	return fmt.Errorf("no ErrorInfo in %v", failure.Details())
}

// embeddings reads the streaming twin: the unary call would be more than the 4 MiB that a client takes.
func (a asker) embeddings(ctx context.Context) error {
	texts := make([]string, a.inputs)
	for i := range texts {
		texts[i] = fmt.Sprintf("text %d", i)
	}
	request := &pb.EmbeddingsRequest{
		Target: &pb.EmbeddingsRequest_Model{Model: a.embed},
		Input:  &pb.TextInput{Input: &pb.TextInput_Texts{Texts: &pb.TextList{Values: texts}}},
	}
	dimensions := int32(4096)
	request.Dimensions = &dimensions
	events, err := a.client.StreamEmbeddings(ctx, request)
	if err != nil {
		return err
	}
	count, numbers := 0, 0
	for {
		event, err := events.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		for _, one := range event.GetBatch().GetData() {
			count, numbers = count+1, numbers+len(one.Values)
		}
	}
	fmt.Printf("embeddings: %d of %d bytes\n", count, 4*numbers)
	if count != a.inputs {
		return errors.New("some are missing")
	}
	return nil
}

// stream reads an answer as it comes, however long the model is silent. Only the verdict says that it is whole.
func (a asker) stream(ctx context.Context, say string) error {
	events, err := a.client.StreamChatCompletion(ctx, question(a.model, say))
	if err != nil {
		return err
	}
	text, verdict := "", pb.Verdict_VERDICT_UNSPECIFIED
	silence, last := time.Duration(0), time.Now()
	for {
		event, err := events.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if pause := time.Since(last); pause > silence {
			silence = pause
		}
		last = time.Now()
		text += event.GetDelta().GetContent()
		if event.GetVerdict() != nil {
			verdict = event.GetVerdict().Verdict
		}
	}
	fmt.Printf("stream: %q, %s, silent for %d s\n", text, verdict, int(silence.Seconds()))
	if text == "" || verdict != pb.Verdict_VERDICT_COMPLETE {
		return errors.New("the answer is not complete")
	}
	return nil
}
