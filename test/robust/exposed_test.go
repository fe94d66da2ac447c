package robust

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kvd/test/oracle"
)

// TestAuthenticationAndPlainPortsDoNotGoTogether has a member that listens on all
// addresses of a network namespace of its own. It is spoken with over a socket.
func TestAuthenticationAndPlainPortsDoNotGoTogether(t *testing.T) {
	n := newNetwork(t, 1)
	socket := filepath.Join(t.TempDir(), "s")
	const plain, loopback = "http://0.0.0.0:2379", "http://127.0.0.1:2379"
	begin := func(data, listen string, more ...string) *oracle.Member {
		return oracle.Launch(t, oracle.Kvd(t), oracle.Options{
			DataDir: data, ClientURL: "http://127.0.0.1:2379", PeerURL: "http://127.0.0.1:2380",
			Under: []string{"ip", "netns", "exec", n.spaces[0].name},
			Connect: func(ctx context.Context, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", socket)
			},
			Args: append([]string{fmt.Sprintf("--listen-client-urls=%s,unix://%s", listen, socket)}, more...),
		})
	}
	ready := func(m *oracle.Member) {
		t.Helper()
		if err := m.Ready(oracle.ReadyWithin); err != nil {
			t.Fatal(err)
		}
	}
	enable := func(m *oracle.Member) error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := pb.NewAuthClient(m.Dial()).AuthEnable(ctx, &pb.AuthEnableRequest{})
		return err
	}
	const warning = "listening beyond this machine in plain text"

	m := begin("", plain)
	ready(m)
	if !strings.Contains(m.Log(), warning) {
		t.Error("it says nothing of its plain port")
	}
	users := pb.NewAuthClient(m.Dial())
	if _, err := users.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: "root", Password: "x"}); err != nil {
		t.Fatal(err)
	}
	if _, err := users.UserGrantRole(t.Context(), &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"}); err != nil {
		t.Fatal(err)
	}
	if err := enable(m); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("with a plain port: %v", err)
	}
	data := m.DataDir
	m.Stop()

	m = begin(data, plain, "--allow-insecure-listen")
	ready(m)
	if strings.Contains(m.Log(), warning) {
		t.Error("it warns of what was allowed")
	}
	if err := enable(m); err != nil {
		t.Errorf("allowed: %v", err)
	}
	m.Stop()

	m = begin(data, plain)
	exit, err := m.Wait(oracle.ReadyWithin)
	if err != nil || exit.ExitCode() != 78 || !strings.Contains(m.Log(), "allow-insecure-listen") {
		t.Errorf("a start with authentication on: %v, %v", exit, err)
	}

	m = begin(data, loopback)
	ready(m)
	m.Stop()
}
