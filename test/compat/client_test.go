package compat

import (
	"context"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"kvd/test/oracle"
)

// The tests in client_*_test.go drive a cluster of kvd through what etcd's client
// library builds over the API, and assert what the library promises.

// library is a cluster that such tests share; each has a prefix of its own.
type library struct {
	cluster *oracle.Cluster
}

// newLibrary starts a cluster of three.
func newLibrary(t *testing.T) *library {
	t.Helper()
	return &library{oracle.StartCluster(t, []oracle.Binary{target(t)}, oracle.ClusterOptions{Size: 3})}
}

// client is one of its own at a member, which ends with the test.
func (l *library) client(t *testing.T, member int) *clientv3.Client {
	t.Helper()
	return l.connect(t, l.cluster.Members[member].ClientURL)
}

func (l *library) connect(t *testing.T, urls ...string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: urls, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// bounded is a context that outlives no test.
func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), oracle.SettleWithin)
	t.Cleanup(cancel)
	return ctx
}

func mustPut(t *testing.T, kv clientv3.KV, key, value string, opts ...clientv3.OpOption) *clientv3.PutResponse {
	t.Helper()
	r, err := kv.Put(bounded(t), key, value, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// has asserts what a key's value is; "" for a key that is not there.
func has(t *testing.T, kv clientv3.KV, key, value string) {
	t.Helper()
	r, err := kv.Get(bounded(t), key)
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	if len(r.Kvs) > 0 {
		got = string(r.Kvs[0].Value)
	}
	if got != value {
		t.Errorf("%s is %q, want %q", key, got, value)
	}
}

// comesTrue waits for what other goroutines or members bring about.
func comesTrue(t *testing.T, what string, is func() bool) {
	t.Helper()
	for late := time.Now().Add(oracle.SettleWithin); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("%s: not within %s", what, oracle.SettleWithin)
		}
	}
}

// all runs n of the same at once, and returns their errors.
func all(n int, do func(i int) error) []error {
	errs := make([]error, n)
	var running sync.WaitGroup
	for i := range n {
		running.Go(func() { errs[i] = do(i) })
	}
	running.Wait()
	return errs
}
