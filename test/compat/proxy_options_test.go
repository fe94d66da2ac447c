package compat

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"

	"kvd/test/oracle"
)

// TestANamespaceIsSeenFromOutsideOnly writes through a proxy with a namespace and
// looks at the member what was written.
func TestANamespaceIsSeenFromOutsideOnly(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, oracle.Kvd(t), oracle.Options{})
	p := proxyBefore(t, m, oracle.Options{Name: "proxy", Args: []string{"--proxy-namespace=ns/"}})
	lib := &library{}
	inside, outside := lib.connect(t, p.ClientURL), lib.connect(t, m.ClientURL)
	ctx := bounded(t)
	mustPut(t, outside, "a", "outside")
	mustPut(t, outside, "ns0", "behind")
	events := inside.Watch(ctx, "", clientv3.WithFromKey(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
	<-events
	lease, err := inside.Grant(ctx, 60)
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, inside, "a", "1", clientv3.WithLease(lease.ID))
	txn, err := inside.Txn(ctx).If(clientv3.Compare(clientv3.Value("a"), "=", "1")).
		Then(clientv3.OpPut("b", "2"), clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpGet("", clientv3.WithFromKey())}, nil), clientv3.OpDelete("a", clientv3.WithPrevKV())).Commit()
	if err != nil || !txn.Succeeded {
		t.Fatalf("%v, %v", txn, err)
	}
	var keys []string
	for _, kv := range txn.Responses[1].GetResponseTxn().Responses[0].GetResponseRange().Kvs {
		keys = append(keys, string(kv.Key))
	}
	if deleted := txn.Responses[2].GetResponseDeleteRange().PrevKvs; !slices.Equal(keys, []string{"a", "b"}) || len(deleted) != 1 || string(deleted[0].Key) != "a" {
		t.Errorf("the transaction saw %q and deleted %v", keys, deleted)
	}
	mustPut(t, outside, "ns/c", "3", clientv3.WithLease(lease.ID))
	mustPut(t, outside, "z", "", clientv3.WithLease(lease.ID))
	var seen []string
	for len(seen) < 4 {
		r, ok := <-events
		if !ok || r.Err() != nil {
			t.Fatalf("the watch ended: %v", r.Err())
		}
		for _, e := range r.Events {
			seen = append(seen, e.Type.String()+" "+string(e.Kv.Key))
			if e.PrevKv != nil && string(e.PrevKv.Key) != string(e.Kv.Key) {
				t.Errorf("%s was %s before", e.Kv.Key, e.PrevKv.Key)
			}
		}
	}
	if want := []string{"PUT a", "PUT b", "DELETE a", "PUT c"}; !slices.Equal(seen, want) {
		t.Errorf("the watch saw %q, want %q", seen, want)
	}
	ttl, err := inside.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
	if err != nil || len(ttl.Keys) != 1 || string(ttl.Keys[0]) != "c" {
		t.Errorf("the lease holds %v, %v", ttl, err)
	}
	if _, err := inside.Delete(ctx, "", clientv3.WithFromKey()); err != nil {
		t.Fatal(err)
	}
	all, err := outside.Get(ctx, "", clientv3.WithFromKey(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	keys = nil
	for _, kv := range all.Kvs {
		keys = append(keys, string(kv.Key))
	}
	if want := []string{"a", "ns0", "z"}; !slices.Equal(keys, want) {
		t.Errorf("after all of the namespace is deleted there are %q, want %q", keys, want)
	}
	// And the same over JSON.
	d := newDesk(t, p)
	d.send(letter{path: "/v3/kv/put", body: `{"key":"ag==","value":"dg=="}`})
	if r, err := outside.Get(ctx, "ns/j"); err != nil || len(r.Kvs) != 1 {
		t.Errorf("over JSON: %v, %v", r, err)
	}
}

// TestProxiesAreToldAsMembers registers two proxies; etcd's own resolver reads
// where they are, and clients that ask for the members stay with them.
func TestProxiesAreToldAsMembers(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, oracle.Kvd(t), oracle.Options{})
	lib := &library{}
	direct := lib.connect(t, m.ClientURL)
	var proxies []*oracle.Member
	var want []string
	for _, name := range []string{"p1", "p2"} {
		url := "http://" + oracle.FreeAddress(t)
		proxies = append(proxies, proxyBefore(t, m, oracle.Options{
			Name: name, ClientURL: url,
			Args: []string{"--advertise-client-urls", url, "--proxy-resolver-prefix=proxies", "--proxy-resolver-ttl=30s"},
		}))
		want = append(want, strings.TrimPrefix(url, "http://"))
	}
	slices.Sort(want)
	told := func() (addresses []string) {
		t.Helper()
		list, err := lib.connect(t, proxies[0].ClientURL).MemberList(bounded(t))
		if err != nil {
			t.Fatal(err)
		}
		host, err := os.Hostname()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range list.Members {
			addresses = append(addresses, m.ClientURLs...)
			if m.Name != host || m.ID != 0 {
				t.Errorf("a proxy is told as %v", m)
			}
		}
		slices.Sort(addresses)
		return addresses
	}
	eventually(t, func() bool { return slices.Equal(told(), want) }, func() string { return "both proxies are told" })
	manager, err := endpoints.NewManager(direct, "proxies")
	if err != nil {
		t.Fatal(err)
	}
	found, err := manager.List(bounded(t))
	if err != nil || len(found) != 2 || found["proxies/"+want[0]].Addr != want[0] {
		t.Errorf("etcd's resolver finds %v, %v", found, err)
	}
	// The metadata is text, as etcd's proxies write it.
	rows, err := direct.Get(bounded(t), "proxies/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range rows.Kvs {
		var row struct {
			Op             int
			Addr, Metadata string
		}
		if err := json.Unmarshal(kv.Value, &row); err != nil || row.Op != 0 || !strings.HasPrefix(row.Metadata, `{"name":"`) || kv.Lease == 0 {
			t.Errorf("%s, %v", kv.Value, err)
		}
	}
	// A proxy that ends goes at once, one that is killed with its lease.
	proxies[1].Stop()
	if got, want := told(), []string{proxies[0].Address()}; !slices.Equal(got, want) {
		t.Errorf("after one has ended, %q are told", got)
	}
	list, err := pb.NewClusterClient(m.Dial()).MemberList(bounded(t), &pb.MemberListRequest{})
	if err != nil || len(list.Members) != 1 || list.Members[0].ID == 0 {
		t.Errorf("the member itself tells %v, %v", list, err)
	}
}
