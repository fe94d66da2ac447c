package compat

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/test/oracle"
)

// What only shows with much data: answers of many chunks, compactions of many
// batches, logs of many segments.

// bulk is a transaction that puts a hundred keys.
func bulk(round int) op {
	r := &pb.TxnRequest{}
	for i := range 100 {
		put := &pb.PutRequest{Key: fmt.Appendf(nil, "v/%04d", (round*37+i*7)%1500), Value: bytes.Repeat([]byte{byte(round)}, 700)}
		r.Success = append(r.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
	}
	return kv("Txn", r)
}

func TestManyKeysAreListedAsEtcdListsThem(t *testing.T) {
	t.Parallel()
	s := sessionOf(t)
	for round := range 60 {
		s.play(bulk(round))
	}
	s.play(kv("DeleteRange", &pb.DeleteRangeRequest{Key: []byte("v/0300"), RangeEnd: []byte("v/0400")}))
	for _, req := range []*pb.RangeRequest{
		everything(),
		{Key: []byte("v/"), RangeEnd: []byte("v0"), KeysOnly: true},
		{Key: []byte("v/"), RangeEnd: []byte("v0"), CountOnly: true},
		{Key: []byte("v/"), RangeEnd: []byte("v0"), Limit: 777},
		{Key: []byte("v/"), RangeEnd: []byte("v0"), Revision: 30},
		{Key: []byte("v/0200"), RangeEnd: []byte{0}, Limit: 500, Revision: 50, Serializable: true},
		{Key: []byte("v/"), RangeEnd: []byte("v0"), Limit: -5},
	} {
		s.play(kv("Range", req), op{method: methodRangeStream, req: req})
	}
	for target := range pb.RangeRequest_SortTarget_name {
		s.play(kv("Range", &pb.RangeRequest{
			Key: []byte("v/"), RangeEnd: []byte("v0"), SortOrder: pb.RangeRequest_DESCEND,
			SortTarget: pb.RangeRequest_SortTarget(target), Limit: 300,
		}))
	}
}

// A sort target without an order is nothing that RangeStream refuses, and etcd
// 3.7.3 loses or repeats keys over it. kvd streams all keys, in their order.
func TestRangeStreamWithATargetAloneIsInKeyOrder(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, target(t), oracle.Options{})
	one := newSide(t, m)
	for round := range 10 {
		if a := one.send(bulk(round)); a.msg == nil {
			t.Fatal(a)
		}
	}
	want := one.send(kv("Range", everything()))
	for sort := range pb.RangeRequest_SortTarget_name {
		req := everything()
		req.SortTarget = pb.RangeRequest_SortTarget(sort)
		if got := one.send(op{method: methodRangeStream, req: req}); !same(want, got) {
			t.Errorf("target %s: %s, want %s", req.SortTarget, clip(got.String(), 500), clip(want.String(), 500))
		}
	}
}

// A compaction removes thousands of records in batches; nothing but the past
// may change, then, later, and after a restart in the middle of it.
func TestLargeCompactionIsEtcds(t *testing.T) {
	t.Parallel()
	s := sessionOf(t)
	for round := range 80 {
		s.play(bulk(round))
	}
	hashes := func() {
		t.Helper()
		for _, revision := range []int64{0, 41, 60, 79} {
			s.play(maintenance("HashKV", &pb.HashKVRequest{Revision: revision}))
		}
		s.play(kv("Range", everything()))
	}
	hashes()
	s.play(kv("Compact", &pb.CompactionRequest{Revision: 40, Physical: true}))
	hashes()
	s.play(kv("DeleteRange", &pb.DeleteRangeRequest{Key: []byte("v/"), RangeEnd: []byte("v/08")}))
	for _, one := range s.sides() { // not waited for: the kill meets it at work
		req := &pb.CompactionRequest{Revision: 80}
		if a := one.call(nil, "/etcdserverpb.KV/Compact", req, &pb.CompactionResponse{}); a.msg == nil {
			t.Fatalf("%s: %s", one.name, a)
		}
	}
	s.play(op{method: methodRestart, kill: true})
	s.play(
		kv("Compact", &pb.CompactionRequest{Revision: 80, Physical: true}), // refused once it is done
		maintenance("HashKV", &pb.HashKVRequest{}),
		kv("Range", everything()),
	)
}

// A log of several segments and snapshots, of which the oldest were purged, is
// read by the other.
func TestManySegmentsAreReadByTheOther(t *testing.T) {
	t.Parallel()
	flags := []string{"--snapshot-count=30", "--snapshot-catchup-entries=10", "--max-wals=2"}
	for _, order := range [][2]oracle.Binary{{oracle.Etcd(t), target(t)}, {target(t), oracle.Etcd(t)}} {
		o := oracle.Options{DataDir: filepath.Join(t.TempDir(), "data"), Args: flags}
		m := oracle.Start(t, order[0], o)
		keys := pb.NewKVClient(m.Dial())
		for i := range 150 { // of a megabyte: past two segments of 64 MB
			put := &pb.PutRequest{Key: fmt.Appendf(nil, "big/%d", i%5), Value: bytes.Repeat([]byte{byte(i)}, 1<<20)}
			if _, err := keys.Put(context.Background(), put); err != nil {
				t.Fatal(err)
			}
		}
		before := stateOf(t, m)
		m.Kill()
		m = oracle.Start(t, order[1], o)
		compareStates(t, before, stateOf(t, m))
		write(t, m)
		before = stateOf(t, m)
		m.Stop()
		compareStates(t, before, stateOf(t, oracle.Start(t, order[0], o)))
	}
}

// A snapshot that is saved while others write is of one moment.
func TestSnapshotUnderLoadIsOfOneMoment(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, target(t), oracle.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for w := range 4 {
		keys := pb.NewKVClient(m.Dial())
		all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				r := &pb.TxnRequest{} // the same value under two keys far apart
				for _, key := range []string{"a", "z"} {
					put := &pb.PutRequest{Key: fmt.Appendf(nil, "%s/%d", key, w), Value: fmt.Appendf(nil, "%d", i)}
					r.Success = append(r.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
				}
				if _, err := keys.Txn(ctx, r); err != nil && ctx.Err() == nil {
					t.Errorf("txn: %v", err)
					return
				}
			}
		})
	}
	var files []string
	for i := range 3 {
		file := filepath.Join(t.TempDir(), fmt.Sprintf("%d.db", i))
		oracle.Kvctl(t).MustRun(t, "--endpoints", m.ClientURL, "snapshot", "save", file)
		files = append(files, file)
	}
	cancel()
	all.Wait()
	for _, file := range files {
		r := oracle.Start(t, oracle.Etcd(t), restored(t, file))
		got, err := pb.NewKVClient(r.Dial()).Range(context.Background(), everything())
		if err != nil {
			t.Fatal(err)
		}
		values := map[string]string{}
		for _, kv := range got.Kvs {
			values[string(kv.Key)] = string(kv.Value)
		}
		for w := range 4 {
			if a, z := values[fmt.Sprintf("a/%d", w)], values[fmt.Sprintf("z/%d", w)]; a != z {
				t.Errorf("writer %d: %q under one key, %q under the other", w, a, z)
			}
		}
		r.Stop()
	}
}
