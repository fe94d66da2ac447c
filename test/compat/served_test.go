package compat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"kvd/test/oracle"
)

// servedWithin is how long a call may take to say that it is not implemented.
// Those that wait for something have not said so.
const servedWithin = 2 * time.Second

// TestNoCallIsUnimplemented calls every RPC that etcd describes, and every path of
// its gateway, with an empty message.
func TestNoCallIsUnimplemented(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, target(t), oracle.Options{})
	conn := m.Dial()
	var calls sync.WaitGroup
	n := 0
	for _, file := range []protoreflect.FileDescriptor{pb.File_rpc_proto, electionFile(), lockFile(), grpc_health_v1.File_grpc_health_v1_health_proto} {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				method := methods.Get(j)
				n++
				calls.Go(func() {
					if err := callEmpty(conn, method); status.Code(err) == codes.Unimplemented {
						t.Errorf("%s: %v", method.FullName(), err)
					}
				})
			}
		}
	}
	if n != 42+7+3 {
		t.Errorf("%d RPCs are described, this was written for 52: look at the new ones", n)
	}
	for _, path := range gatewayPaths(t) {
		calls.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), servedWithin)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.ClientURL+path, strings.NewReader("{}"))
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return // it waits
			}
			defer resp.Body.Close()
			if resp.StatusCode == http.StatusNotImplemented || resp.StatusCode == http.StatusNotFound && !named(resp.Body) {
				t.Errorf("%s: %s", path, resp.Status)
			}
		})
	}
	calls.Wait()
}

// named reports whether an answer says what was not found: a lease, a member.
func named(body io.Reader) bool {
	b, err := io.ReadAll(body)
	return err == nil && bytes.Contains(b, []byte("etcdserver:"))
}

func callEmpty(conn *grpc.ClientConn, m protoreflect.MethodDescriptor) error {
	ctx, cancel := context.WithTimeout(context.Background(), servedWithin)
	defer cancel()
	name := fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
	in, out := dynamicpb.NewMessage(m.Input()), dynamicpb.NewMessage(m.Output())
	if !m.IsStreamingClient() && !m.IsStreamingServer() {
		return conn.Invoke(ctx, name, in, out)
	}
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: m.IsStreamingClient()}, name)
	if err != nil {
		return err
	}
	if err := s.SendMsg(proto.Message(in)); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	return s.RecvMsg(out)
}

// TestNoFlagIsUnknown gives kvd every flag that etcd's help names.
func TestNoFlagIsUnknown(t *testing.T) {
	t.Parallel()
	help, err := exec.Command(oracle.Etcd(t).Path, "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, help)
	}
	flags := slices.Compact(slices.Sorted(func(yield func(string) bool) {
		for _, f := range regexp.MustCompile(`(?m)^\s+--([a-z0-9-]+)`).FindAllSubmatch(help, -1) {
			if !yield(string(f[1])) {
				return
			}
		}
	}))
	if len(flags) < 100 {
		t.Fatalf("etcd's help names only %d flags", len(flags))
	}
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	differences, err := os.ReadFile("../../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range flags {
		if !bytes.Contains(differences, []byte("`"+f+"`")) {
			t.Errorf("--%s is not in docs/compatibility.md", f)
		}
		if f == "config-file" || f == "version" || f == "help" {
			continue // they end the program before it looks at others
		}
		if unknownFlag(target(t).Path, f) {
			if !unknownFlag(oracle.Etcd(t).Path, f) { // its help names one that it no longer has
				t.Errorf("--%s is not known", f)
			}
			continue
		}
		if !bytes.Contains(page, []byte("`"+f+"`")) {
			t.Errorf("--%s is not in docs/configuration.md", f)
		}
	}
	for _, bin := range []oracle.Binary{target(t), oracle.Etcd(t)} {
		if !unknownFlag(bin.Path, "nosuch") {
			t.Errorf("%s knows a flag that does not exist", bin.Name)
		}
	}
}

// unknownFlag reports whether a server refuses a flag for its name. Most flags
// want a value, and are refused for theirs.
func unknownFlag(path, flag string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	out, _ := exec.CommandContext(ctx, path, "--"+flag+"=", "--version").CombinedOutput()
	return bytes.Contains(out, []byte("flag provided but not defined"))
}

// TestCompatibilityListsEverything looks for every RPC and path in the document
// that says how kvd behaves.
func TestCompatibilityListsEverything(t *testing.T) {
	page, err := os.ReadFile("../../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range gatewayPaths(t) {
		if !bytes.Contains(page, []byte("`"+path+"`")) {
			t.Errorf("%s is not listed", path)
		}
	}
	for _, file := range []protoreflect.FileDescriptor{pb.File_rpc_proto, electionFile(), lockFile()} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				name := string(service.Methods().Get(j).Name())
				if !regexp.MustCompile(`(?m)^\|.*\b` + name + `\b.*\|`).Match(page) {
					t.Errorf("%s of %s is not listed", name, service.Name())
				}
			}
		}
	}
}
