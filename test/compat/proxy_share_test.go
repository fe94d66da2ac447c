package compat

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"kvd/test/oracle"
)

// TestACachedRangeIsNeverTakenBack writes past a proxy that keeps answers, and reads
// through it.
func TestACachedRangeIsNeverTakenBack(t *testing.T) {
	t.Parallel()
	bothKinds(t, func(t *testing.T, m *oracle.Member) {
		p := proxyBefore(t, m, oracle.Options{Name: "proxy", Args: []string{"--proxy-cache-bytes=1MiB"}})
		through, direct := (&library{}).connect(t, p.ClientURL), (&library{}).connect(t, m.ClientURL)
		hits := func() int { return metricOf(t, p, "etcd_grpc_proxy_cache_hits_total") }
		ctx := bounded(t)
		newest := int64(0)
		for round := range 5 {
			put := mustPut(t, direct, "c/a", fmt.Sprint(round))
			comesTrue(t, "the write is seen", func() bool {
				r, err := through.Get(ctx, "c/", clientv3.WithPrefix(), clientv3.WithSerializable())
				if err != nil {
					t.Fatal(err)
				}
				if r.Header.Revision < newest {
					t.Fatalf("revision %d comes after %d", r.Header.Revision, newest)
				}
				newest = r.Header.Revision
				return newest >= put.Header.Revision
			})
			before := hits()
			comesTrue(t, "it is answered from what is kept", func() bool {
				r, err := through.Get(ctx, "c/", clientv3.WithPrefix(), clientv3.WithSerializable())
				if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != fmt.Sprint(round) {
					t.Fatalf("round %d: %v, %v", round, r, err)
				}
				return hits() > before
			})
			text := posted(t, p, "/v3/kv/range", `{"key":"Yy8=","range_end":"YzA=","serializable":true}`)
			if want := b64(fmt.Sprint(round)); !strings.Contains(text, want) {
				t.Errorf("over JSON: %s, want %s", text, want)
			}
		}
	})
}

// TestOrderedReadsAreNeverOlderThanWhatWasSeen reads from any of three members what
// was written a moment ago; and from a member alone that has not heard of it.
func TestOrderedReadsAreNeverOlderThanWhatWasSeen(t *testing.T) {
	t.Parallel()
	c := oracle.StartCluster(t, []oracle.Binary{oracle.Kvd(t)}, oracle.ClusterOptions{Size: 3})
	var urls []string
	for _, m := range c.Members {
		urls = append(urls, m.ClientURL)
	}
	p := proxyBefore(t, c.Members[0], oracle.Options{Name: "proxy", Args: []string{
		"--proxy-serializable-ordering", "--proxy-endpoints=" + strings.Join(urls, ","),
	}})
	client := (&library{}).connect(t, p.ClientURL)
	ctx := bounded(t)
	for i := range 300 {
		put := mustPut(t, client, "k", fmt.Sprint(i))
		r, err := client.Get(ctx, "k", clientv3.WithSerializable())
		if err != nil { // no member has it yet that is not asked
			if !strings.Contains(err.Error(), "no cluster members have a revision higher") {
				t.Fatal(err)
			}
			continue
		}
		if r.Header.Revision < put.Header.Revision || string(r.Kvs[0].Value) != fmt.Sprint(i) {
			t.Fatalf("after revision %d: %v", put.Header.Revision, r)
		}
	}
}

// TestRenewalsOfALeaseAreJoinedAtAProxy has many clients renew one lease while the
// member is stopped, and looks how many renewals it has seen.
func TestRenewalsOfALeaseAreJoinedAtAProxy(t *testing.T) {
	t.Parallel()
	bothKinds(t, func(t *testing.T, m *oracle.Member) {
		const holders = 50
		p := proxyBefore(t, m, oracle.Options{Name: "proxy"})
		client := (&library{}).connect(t, p.ClientURL)
		lease, err := client.Grant(bounded(t), 60)
		if err != nil {
			t.Fatal(err)
		}
		renewed := func() int { return metricOf(t, m, "etcd_debugging_lease_renewed_total") }
		var streams []pb.Lease_LeaseKeepAliveClient
		for range holders {
			s, err := pb.NewLeaseClient(p.Dial()).LeaseKeepAlive(bounded(t))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Send(&pb.LeaseKeepAliveRequest{ID: int64(lease.ID)}); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Recv(); err != nil { // it is open
				t.Fatal(err)
			}
			streams = append(streams, s)
		}
		before := renewed()
		if err := m.Pause(); err != nil {
			t.Fatal(err)
		}
		for _, s := range streams {
			if err := s.Send(&pb.LeaseKeepAliveRequest{ID: int64(lease.ID)}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(300 * time.Millisecond) // they arrive at the proxy; who comes late costs one renewal more
		if err := m.Resume(); err != nil {
			t.Fatal(err)
		}
		for _, s := range streams {
			if r, err := s.Recv(); err != nil || r.TTL != 60 || r.ID != int64(lease.ID) {
				t.Fatal(r, err)
			}
		}
		if n := renewed() - before; n > holders/2 {
			t.Errorf("%d holders took %d renewals", holders, n)
		}
	})
}

// TestWatchesOverJSONAreJoinedToo, with those of gRPC clients.
func TestWatchesOverJSONAreJoinedToo(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, oracle.Kvd(t), oracle.Options{})
	p := proxyBefore(t, m, oracle.Options{Name: "proxy"})
	client := (&library{}).connect(t, p.ClientURL)
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	if r := <-client.Watch(ctx, "k", clientv3.WithCreatedNotify()); !r.Created {
		t.Fatal(r)
	}
	const readers = 5
	var answers []*json.Decoder
	for range readers {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.ClientURL+"/v3/watch", strings.NewReader(`{"create_request":{"key":"aw=="}}`))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		answers = append(answers, json.NewDecoder(answer.Body))
	}
	type told struct {
		Result struct {
			Created bool
			Events  []struct{ Kv struct{ Value string } }
		}
	}
	for _, d := range answers {
		var one told
		if err := d.Decode(&one); err != nil || !one.Result.Created {
			t.Fatalf("%+v, %v", one, err)
		}
	}
	comesTrue(t, "they share a watch", func() bool {
		return metricOf(t, p, "kvd_proxy_member_watches") == 1 && metricOf(t, p, "etcd_grpc_proxy_watchers_coalescing_total") == readers+1
	})
	mustPut(t, client, "k", "v")
	for _, d := range answers {
		var one told
		if err := d.Decode(&one); err != nil || len(one.Result.Events) != 1 || one.Result.Events[0].Kv.Value != b64("v") {
			t.Errorf("%+v, %v", one, err)
		}
	}
	cancel()
	comesTrue(t, "nothing of them is left", func() bool { return metricOf(t, p, "kvd_proxy_member_watches") == 0 })
}

// addedAtMost is what a proxy adds to a call at the median, as docs/operations.md
// says.
const addedAtMost = time.Millisecond

// TestAProxyAddsNoMoreThanItSays compares calls through a proxy with those to the
// member, taken in turns. A machine that is busy with other things gets more tries.
func TestAProxyAddsNoMoreThanItSays(t *testing.T) {
	m := oracle.Start(t, oracle.Kvd(t), oracle.Options{})
	p := proxyBefore(t, m, oracle.Options{Name: "proxy"})
	mustWrite(t, m, "k", "v")
	direct, through := pb.NewKVClient(m.Dial()), pb.NewKVClient(p.Dial())
	ctx := bounded(t)
	for what, call := range map[string]func(kv pb.KVClient) error{
		"Range": func(kv pb.KVClient) error { _, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k")}); return err },
		"Put": func(kv pb.KVClient) error {
			_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k"), Value: []byte("v")})
			return err
		},
	} {
		least := time.Hour
		for try := 0; try < 20 && least > addedAtMost; try++ {
			var took [2][]time.Duration
			for range 50 {
				for i, kv := range []pb.KVClient{direct, through} {
					at := time.Now()
					if err := call(kv); err != nil {
						t.Fatal(err)
					}
					took[i] = append(took[i], time.Since(at))
				}
			}
			for i := range took {
				slices.Sort(took[i])
			}
			least = min(least, took[1][25]-took[0][25])
		}
		t.Logf("%s: %v more through the proxy", what, least)
		if least > addedAtMost {
			t.Errorf("%s: %v more through the proxy, at the best of many times", what, least)
		}
	}
}
