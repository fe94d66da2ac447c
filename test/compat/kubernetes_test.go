package compat

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"kvd/test/oracle"
)

const kubernetes = "../testdata/etcd-3.7.3-kubernetes"

// recorded is what etcd 3.7.3 said of the data directory before it stopped.
type recorded struct {
	revision, compacted int64
	hash                uint32
	keys                map[string]string // all but the key of a line of keys.tsv
	leases              []int64
}

func readRecorded(t *testing.T) recorded {
	t.Helper()
	r := recorded{keys: map[string]string{}}
	var hashes []struct {
		HashKV struct {
			Hash            uint32
			CompactRevision int64 `json:"compact_revision"`
			HashRevision    int64 `json:"hash_revision"`
		}
	}
	readJSON(t, "hashkv.json", &hashes)
	r.hash, r.revision, r.compacted = hashes[0].HashKV.Hash, hashes[0].HashKV.HashRevision, hashes[0].HashKV.CompactRevision
	var leases struct{ Leases []struct{ ID int64 } }
	readJSON(t, "leases.json", &leases)
	for _, l := range leases.Leases {
		r.leases = append(r.leases, l.ID)
	}
	slices.Sort(r.leases)
	f, err := os.Open(filepath.Join(kubernetes, "keys.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Scan() // the heading
	for lines.Scan() {
		key, rest, _ := strings.Cut(lines.Text(), "\t")
		r.keys[key] = rest
	}
	if len(r.keys) < 1000 {
		t.Fatalf("keys.tsv: only %d keys", len(r.keys))
	}
	return r
}

func readJSON(t *testing.T, name string, into any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(kubernetes, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// kubernetesOptions are those that the member in the data directory had, on a
// fresh copy of it.
func kubernetesOptions(t *testing.T) oracle.Options {
	dir := filepath.Join(t.TempDir(), "data")
	unpack(t, filepath.Join(kubernetes, "data-dir.tar.xz"), dir)
	return oracle.Options{Name: "k8s-1", DataDir: dir, Token: "k8s"}
}

// checkRecorded compares what a server serves with what was recorded.
func checkRecorded(t *testing.T, m *oracle.Member, want recorded) {
	t.Helper()
	kv := pb.NewKVClient(m.Dial())
	all, err := kv.Range(context.Background(), everything())
	if err != nil {
		t.Fatal(err)
	}
	if all.Header.Revision != want.revision {
		t.Errorf("revision %d, recorded %d", all.Header.Revision, want.revision)
	}
	seen := map[string]bool{}
	for _, one := range all.Kvs {
		seen[string(one.Key)] = true
		if got := line(one); got != want.keys[string(one.Key)] {
			t.Errorf("%s: %q, recorded %q", one.Key, got, want.keys[string(one.Key)])
		}
	}
	for key := range want.keys {
		if !seen[key] {
			t.Errorf("%s: lost", key)
		}
	}
	hash, err := pb.NewMaintenanceClient(m.Dial()).HashKV(context.Background(), &pb.HashKVRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if hash.Hash != want.hash || hash.CompactRevision != want.compacted {
		t.Errorf("hash %d compacted %d, recorded %d and %d", hash.Hash, hash.CompactRevision, want.hash, want.compacted)
	}
	if got := leaseIDsOf(t, m); !slices.Equal(got, want.leases) {
		t.Errorf("leases %v, recorded %v", got, want.leases)
	}
}

// everything is a request for all keys.
func everything() *pb.RangeRequest {
	return &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
}

// line writes a key's fields as keys.tsv does.
func line(kv *mvccpb.KeyValue) string {
	digest := sha256.Sum256(kv.Value)
	return strings.Join([]string{
		strconv.FormatInt(kv.CreateRevision, 10), strconv.FormatInt(kv.ModRevision, 10),
		strconv.FormatInt(kv.Version, 10), strconv.FormatInt(kv.Lease, 10), fmt.Sprintf("%x", digest[:8]),
	}, "\t")
}

func leaseIDsOf(t *testing.T, m *oracle.Member) (ids []int64) {
	t.Helper()
	resp, err := pb.NewLeaseClient(m.Dial()).LeaseLeases(context.Background(), &pb.LeaseLeasesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range resp.Leases {
		ids = append(ids, l.ID)
	}
	slices.Sort(ids)
	return ids
}

func TestKubernetesDirectoryIsServedAsRecorded(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, target(t), kubernetesOptions(t))
	want := readRecorded(t)
	checkRecorded(t, m, want)
	for _, id := range want.leases {
		ttl, err := pb.NewLeaseClient(m.Dial()).LeaseTimeToLive(context.Background(), &pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
		if err != nil {
			t.Fatal(err)
		}
		var bound []string
		for key, rest := range want.keys {
			if strings.Split(rest, "\t")[3] == strconv.FormatInt(id, 10) {
				bound = append(bound, key)
			}
		}
		slices.Sort(bound)
		var got []string
		for _, key := range ttl.Keys {
			got = append(got, string(key))
		}
		slices.Sort(got)
		if ttl.TTL <= 0 || !slices.Equal(got, bound) {
			t.Errorf("lease %d: %d s left, keys %v; recorded %v", id, ttl.TTL, got, bound)
		}
	}
}

func TestKubernetesHistoryIsWatchedAsEtcdDoes(t *testing.T) {
	t.Parallel()
	want := readRecorded(t)
	var told [2][]event
	for i, bin := range []oracle.Binary{oracle.Etcd(t), target(t)} {
		m := oracle.Start(t, bin, kubernetesOptions(t))
		told[i] = watched(t, m, want.compacted+1, want.revision)
	}
	if d := compareEvents("history of the directory", told[0], told[1]); d != nil {
		t.Error(d)
	}
	if len(told[0]) == 0 {
		t.Error("the oracle delivers nothing")
	}
}

// watched returns all events from one revision to another.
func watched(t *testing.T, m *oracle.Member, from, to int64) (events []event) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	stream, err := pb.NewWatchClient(m.Dial()).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: from, PrevKv: true,
	}}})
	for err == nil {
		var r *pb.WatchResponse
		if r, err = stream.Recv(); err != nil {
			break
		}
		events = append(events, r.Events...)
		if n := len(events); n > 0 && events[n-1].Kv.ModRevision >= to {
			return events
		}
	}
	t.Fatalf("%s: watch from %d to %d: %d events, then %v", m.Binary.Name, from, to, len(events), err)
	return nil
}

// A directory goes from etcd to kvd, is written to, and goes back.
func TestKubernetesDirectoryReturnsToEtcd(t *testing.T) {
	t.Parallel()
	o := kubernetesOptions(t)
	m := oracle.Start(t, target(t), o)
	checkRecorded(t, m, readRecorded(t))
	write(t, m)
	before := stateOf(t, m)
	m.Stop()
	etcd := oracle.Start(t, oracle.Etcd(t), o)
	compareStates(t, before, stateOf(t, etcd))
	write(t, etcd)
	before = stateOf(t, etcd)
	etcd.Stop()
	compareStates(t, before, stateOf(t, oracle.Start(t, target(t), o)))
}

// A directory that kvd made goes to etcd and back, stopped in order and not.
func TestDirectoryOfKvdIsEtcds(t *testing.T) {
	for name, end := range map[string]func(*oracle.Member){"stopped": (*oracle.Member).Stop, "killed": (*oracle.Member).Kill} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := oracle.Options{DataDir: filepath.Join(t.TempDir(), "data")}
			m := oracle.Start(t, target(t), o)
			for range 3 {
				write(t, m)
				before := stateOf(t, m)
				end(m)
				m = oracle.Start(t, oracle.Etcd(t), o)
				compareStates(t, before, stateOf(t, m))
				write(t, m)
				before = stateOf(t, m)
				end(m)
				m = oracle.Start(t, target(t), o)
				compareStates(t, before, stateOf(t, m))
			}
		})
	}
}

// state is all that a server says of its data.
type state struct {
	keys      *pb.RangeResponse
	hash      *pb.HashKVResponse
	halfway   *pb.HashKVResponse // at a revision in the past
	leases    []int64
	identity  identity
	directory string
}

func stateOf(t *testing.T, m *oracle.Member) state {
	t.Helper()
	ctx := context.Background()
	s := state{leases: leaseIDsOf(t, m), directory: m.DataDir}
	var err error
	if s.keys, err = pb.NewKVClient(m.Dial()).Range(ctx, everything()); err != nil {
		t.Fatal(err)
	}
	maintenance := pb.NewMaintenanceClient(m.Dial())
	if s.hash, err = maintenance.HashKV(ctx, &pb.HashKVRequest{}); err != nil {
		t.Fatal(err)
	}
	middle := (s.hash.CompactRevision + s.hash.HashRevision + 1) / 2
	if s.halfway, err = maintenance.HashKV(ctx, &pb.HashKVRequest{Revision: middle}); err != nil {
		t.Fatal(err)
	}
	s.identity = identity{s.keys.Header.ClusterId, s.keys.Header.MemberId}
	return s
}

// compareStates compares what two servers said of one directory in turn.
func compareStates(t *testing.T, before, after state) {
	t.Helper()
	if before.identity != after.identity {
		t.Errorf("identity %x before, %x after", before.identity, after.identity)
	}
	if before.keys.Header.Revision != after.keys.Header.Revision {
		t.Errorf("revision %d before, %d after", before.keys.Header.Revision, after.keys.Header.Revision)
	}
	if len(before.keys.Kvs) != len(after.keys.Kvs) {
		t.Errorf("%d keys before, %d after", len(before.keys.Kvs), len(after.keys.Kvs))
	}
	for i, kv := range before.keys.Kvs {
		if i < len(after.keys.Kvs) && (line(kv) != line(after.keys.Kvs[i]) || !bytes.Equal(kv.Key, after.keys.Kvs[i].Key)) {
			t.Errorf("%s before, %s after", text(kv), text(after.keys.Kvs[i]))
		}
	}
	for _, pair := range [][2]*pb.HashKVResponse{{before.hash, after.hash}, {before.halfway, after.halfway}} {
		x, y := pair[0], pair[1]
		if x.Hash != y.Hash || x.HashRevision != y.HashRevision || x.CompactRevision != y.CompactRevision {
			t.Errorf("hash %d at %d compacted %d before, %d at %d compacted %d after",
				x.Hash, x.HashRevision, x.CompactRevision, y.Hash, y.HashRevision, y.CompactRevision)
		}
	}
	if !slices.Equal(before.leases, after.leases) {
		t.Errorf("leases %v before, %v after", before.leases, after.leases)
	}
}

// write changes a directory in every way: puts, transactions, deletes, leases,
// a compaction and the end of a lease.
func write(t *testing.T, m *oracle.Member) {
	t.Helper()
	ctx, conn := context.Background(), m.Dial()
	kv, leases := pb.NewKVClient(conn), pb.NewLeaseClient(conn)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", m.Binary.Name, err)
		}
	}
	kept, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 5000})
	must(err)
	ended, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 5000})
	must(err)
	var last int64
	for i := range 60 {
		put := &pb.PutRequest{Key: fmt.Appendf(nil, "w/%02d", i%40), Value: fmt.Appendf(nil, "%d at %s", i, m.Binary.Name)}
		switch i % 5 {
		case 0:
			put.Lease = kept.ID
		case 1:
			put.Lease = ended.ID
		}
		p, err := kv.Put(ctx, put)
		must(err)
		last = p.Header.Revision
	}
	_, err = kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("w/10"), RangeEnd: []byte("w/15")})
	must(err)
	_, err = kv.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte("w/20"), Target: pb.Compare_VERSION, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_Version{}}},
		Success: []*pb.RequestOp{
			{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("t/1"), Value: []byte("one")}}},
			{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("w/20")}}},
			{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("t/2"), Lease: kept.ID}}},
		},
	})
	must(err)
	_, err = kv.Compact(ctx, &pb.CompactionRequest{Revision: last - 20, Physical: true})
	must(err)
	_, err = leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: ended.ID})
	must(err)
	_, err = kv.Put(ctx, &pb.PutRequest{Key: []byte("w/last"), Value: []byte(m.Binary.Name)})
	must(err)
}
