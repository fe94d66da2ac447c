package compat

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"kvd/test/oracle"
)

// runGateway runs `gateway start` of a binary until the test ends.
func runGateway(t *testing.T, bin oracle.Binary, flags ...string) (address string) {
	t.Helper()
	address = oracle.FreeAddress(t)
	var said bytes.Buffer
	cmd := exec.Command(bin.Path, append([]string{"gateway", "start", "--listen-addr=" + address}, flags...)...)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("the gateway of %s said:\n%s", bin.Name, said.String())
		}
	})
	return address
}

// TestGatewaysPassTLSThrough: the same flags, in front of members of both kinds;
// the member sees the client's certificate, and the client the member's.
func TestGatewaysPassTLSThrough(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	a.both("server", func(c *x509.Certificate) { c.DNSNames = []string{"localhost"} })
	var members []string
	for _, bin := range []oracle.Binary{oracle.Etcd(t), target(t)} {
		_, address := startSecure(t, bin,
			"--cert-file="+a.file("server.crt"), "--key-file="+a.file("server.key"), "--trusted-ca-file="+a.file("ca.crt"), "--client-cert-auth")
		members = append(members, address)
	}
	for _, member := range members {
		for _, bin := range []oracle.Binary{oracle.Etcd(t), target(t)} {
			gateway := runGateway(t, bin, "--endpoints=https://"+member, "--trusted-ca-file="+a.file("ca.crt"), "--retry-delay=100ms")
			c, err := clientv3.New(clientv3.Config{Endpoints: []string{"https://" + gateway}, TLS: a.trust(a.both("visitor")), DialTimeout: answerWithin})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			watch := c.Watch(t.Context(), "key")
			value := fmt.Sprint("by ", bin.Name)
			if _, err := c.Put(t.Context(), "key", value); err != nil {
				t.Fatalf("through %s's: %v", bin.Name, err)
			}
			select {
			case heard := <-watch:
				if len(heard.Events) != 1 || string(heard.Events[0].Kv.Value) != value {
					t.Errorf("through %s's: heard %v, %v", bin.Name, heard.Events, heard.Err())
				}
			case <-time.After(answerWithin):
				t.Errorf("through %s's: nothing is heard", bin.Name)
			}
			stranger := a.trust() // the member wants a certificate
			if got := over(t, "tcp", gateway, stranger); got != "refused" {
				t.Errorf("through %s's, without a certificate: %s", bin.Name, got)
			}
		}
	}
}

// TestAGatewayLeavesAMemberThatStops: clients go on with the other members, and
// come back when it does.
func TestAGatewayLeavesAMemberThatStops(t *testing.T) {
	t.Parallel()
	bins := []oracle.Binary{oracle.Etcd(t), target(t), target(t)}
	cluster := oracle.StartCluster(t, bins, oracle.ClusterOptions{})
	var endpoints []string
	for _, m := range cluster.Members {
		endpoints = append(endpoints, strings.TrimPrefix(m.ClientURL, "http://"))
	}
	gateway := runGateway(t, target(t), "--endpoints="+strings.Join(endpoints, ","), "--retry-delay=50ms")
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + gateway}, DialTimeout: answerWithin})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	put := func(value string) {
		t.Helper()
		for limit := time.Now().Add(answerWithin); ; {
			_, err := c.Put(t.Context(), "key", value)
			if err == nil {
				return
			}
			if time.Now().After(limit) {
				t.Fatalf("put %s: %v", value, err)
			}
		}
	}
	put("first")
	for i, m := range cluster.Members {
		m.Kill()
		put(fmt.Sprint("without ", i))
		m.Restart()
	}
	answer, err := c.Get(t.Context(), "key")
	if err != nil || len(answer.Kvs) != 1 || string(answer.Kvs[0].Value) != "without 2" {
		t.Errorf("the key is %v, %v", answer, err)
	}
}
