package compat

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/ordering"

	"kvd/test/oracle"
)

func TestNamespacesPutAPrefixBefore(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, target(t), oracle.Options{})
	l := &library{&oracle.Cluster{Members: []*oracle.Member{m}}}
	c := l.client(t, 0)
	ctx := bounded(t)
	kv := namespace.NewKV(c.KV, "foo/")
	mustPut(t, kv, "abc", "bar")
	has(t, kv, "abc", "bar")
	has(t, c, "foo/abc", "bar")
	r, err := kv.Get(ctx, "abc")
	if err != nil || string(r.Kvs[0].Key) != "abc" {
		t.Errorf("got %v, %v", r, err)
	}
	mustPut(t, c, "other", "x")
	if r, err := kv.Get(ctx, "", clientv3.WithPrefix()); err != nil || r.Count != 1 {
		t.Errorf("everything in the namespace is %v, %v", r, err)
	}
	if r, err := kv.Get(ctx, "\x00", clientv3.WithFromKey()); err != nil || r.Count != 1 {
		t.Errorf("everything from a key on is %v, %v", r, err)
	}
	txn, err := kv.Txn(ctx).If(clientv3.Compare(clientv3.Value("abc"), "=", "bar")).
		Then(clientv3.OpPut("def", "1"), clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpGet("abc")}, nil)).Commit()
	if err != nil || !txn.Succeeded || string(txn.Responses[1].GetResponseTxn().Responses[0].GetResponseRange().Kvs[0].Key) != "abc" {
		t.Errorf("got %v, %v", txn, err)
	}
	has(t, c, "foo/def", "1")

	w := namespace.NewWatcher(c.Watcher, "foo/")
	events := w.Watch(ctx, "abc", clientv3.WithRev(1))
	mustPut(t, kv, "abc", "baz")
	var heard []string
	for len(heard) < 2 {
		r, ok := <-events
		if !ok || r.Err() != nil {
			t.Fatalf("the watcher ends: %v", r.Err())
		}
		for _, e := range r.Events {
			heard = append(heard, fmt.Sprintf("%s=%s", e.Kv.Key, e.Kv.Value))
		}
	}
	if !slices.Equal(heard, []string{"abc=bar", "abc=baz"}) {
		t.Errorf("heard %q", heard)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}

	leases := namespace.NewLease(c.Lease, "foo/")
	grant, err := leases.Grant(ctx, 60)
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, kv, "leased", "x", clientv3.WithLease(grant.ID))
	mustPut(t, c, "outside", "x", clientv3.WithLease(grant.ID))
	ttl, err := leases.TimeToLive(ctx, grant.ID, clientv3.WithAttachedKeys())
	if err != nil || len(ttl.Keys) != 1 || string(ttl.Keys[0]) != "leased" {
		t.Errorf("the lease's keys are %q, %v", ttl.Keys, err)
	}
	if _, err := kv.Delete(ctx, "", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	has(t, c, "foo/abc", "")
	has(t, c, "outside", "x")
}

// TestAMirrorFollows copies a keyspace and keeps up with it.
func TestAMirrorFollows(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, target(t), oracle.Options{})
	l := &library{&oracle.Cluster{Members: []*oracle.Member{m}}}
	c := l.client(t, 0)
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	const keys = 2500 // more than one page of the syncer
	for i := 0; i < keys; i += 100 {
		var ops []clientv3.Op
		for j := range 100 {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("m/%05d", i+j), fmt.Sprint(i+j)))
		}
		if _, err := c.Txn(ctx).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	mustPut(t, c, "n", "not mirrored")
	s := mirror.NewSyncer(c, "m/", 0)
	pages, errs := s.SyncBase(ctx)
	copied := map[string]string{}
	for page := range pages {
		for _, kv := range page.Kvs {
			copied[string(kv.Key)] = string(kv.Value)
		}
	}
	for err := range errs {
		t.Fatal(err)
	}
	if len(copied) != keys || copied["m/01234"] != "1234" {
		t.Errorf("%d keys were copied", len(copied))
	}
	updates := s.SyncUpdates(ctx)
	mustPut(t, c, "n", "neither")
	mustPut(t, c, "m/new", "1")
	if _, err := c.Delete(ctx, "m/00000"); err != nil {
		t.Fatal(err)
	}
	var heard []string
	for len(heard) < 2 {
		r, ok := <-updates
		if !ok || r.Err() != nil {
			t.Fatalf("the updates end: %v", r.Err())
		}
		for _, e := range r.Events {
			kind := "put"
			if e.Type == mvccpb.Event_DELETE {
				kind = "delete"
			}
			heard = append(heard, kind+" "+string(e.Kv.Key))
		}
	}
	if !slices.Equal(heard, []string{"put m/new", "delete m/00000"}) {
		t.Errorf("heard %q", heard)
	}
}

// TestAMirrorOfEverythingBeginsAtARevision is the syncer without a prefix.
func TestAMirrorOfEverythingBeginsAtARevision(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, target(t), oracle.Options{})
	l := &library{&oracle.Cluster{Members: []*oracle.Member{m}}}
	c := l.client(t, 0)
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	mustPut(t, c, "a", "1")
	at := mustPut(t, c, "b", "2").Header.Revision
	mustPut(t, c, "a", "3")
	s := mirror.NewSyncer(c, "", at)
	pages, errs := s.SyncBase(ctx)
	var copied []string
	for page := range pages {
		for _, kv := range page.Kvs {
			copied = append(copied, fmt.Sprintf("%s=%s", kv.Key, kv.Value))
		}
	}
	for err := range errs {
		t.Fatal(err)
	}
	if !slices.Equal(copied, []string{"a=1", "b=2"}) {
		t.Errorf("copied %q", copied)
	}
	r, ok := <-s.SyncUpdates(ctx)
	if !ok || len(r.Events) != 1 || string(r.Events[0].Kv.Value) != "3" {
		t.Errorf("heard %v", r.Events)
	}
}

// TestAnOlderAnswerIsDetected has a member fall behind and a client that goes to
// it: answers that are older than what the client has seen are found out.
func TestAnOlderAnswerIsDetected(t *testing.T) {
	t.Parallel()
	l := newLibrary(t)
	ctx := bounded(t)
	behind := l.cluster.Members[2]
	if l.cluster.Leader() == behind {
		behind = l.cluster.Members[1]
	}
	var ahead []string
	for _, m := range l.cluster.Members {
		if m != behind {
			ahead = append(ahead, m.ClientURL)
		}
	}
	c := l.connect(t, ahead...)
	mustPut(t, c, "foo", "bar")
	comesTrue(t, "the put at the member that falls behind", func() bool {
		r, err := l.connect(t, behind.ClientURL).Get(ctx, "foo", clientv3.WithSerializable())
		return err == nil && len(r.Kvs) == 1
	})
	behind.Kill()
	mustPut(t, c, "foo", "buzz")

	violated := errors.New("detected an ordering violation")
	kv := ordering.NewKV(c.KV, func(clientv3.Op, clientv3.OpResponse, int64) error { return violated })
	if _, err := kv.Get(ctx, "foo"); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Txn(ctx).If(clientv3.Compare(clientv3.Value("foo"), ">", "b")).Then(clientv3.OpGet("foo")).Commit(); err != nil {
		t.Fatal(err)
	}
	// The others are gone when the one that is behind comes back, so it stays
	// behind.
	for _, m := range l.cluster.Members {
		if m != behind {
			m.Kill()
		}
	}
	behind.Relaunch()
	c.SetEndpoints(behind.ClientURL)
	comesTrue(t, "an answer of the member that is behind", func() bool {
		_, err := kv.Get(ctx, "foo", clientv3.WithSerializable())
		if err == nil {
			t.Fatal("an older answer is taken")
		}
		return errors.Is(err, violated)
	})
	_, err := kv.Txn(ctx).Then(clientv3.OpGet("foo", clientv3.WithSerializable())).Commit()
	if !errors.Is(err, violated) {
		t.Errorf("in a transaction: %v", err)
	}
	switching := ordering.NewOrderViolationSwitchEndpointClosure(c)
	err = switching(clientv3.OpGet("foo"), clientv3.OpResponse{}, 1<<40)
	for range 10 {
		if err == nil {
			err = switching(clientv3.OpGet("foo"), clientv3.OpResponse{}, 1<<40)
		}
	}
	if !errors.Is(err, ordering.ErrNoGreaterRev) {
		t.Errorf("with no member left to ask: %v", err)
	}
}
