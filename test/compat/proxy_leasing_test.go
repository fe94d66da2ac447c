package compat

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"kvd/test/oracle"
)

const leasedBelow = "leases/"

// leasingProxy is a proxy that leases keys, before a member.
func leasingProxy(t *testing.T, m *oracle.Member, name string, more ...string) (*oracle.Member, *clientv3.Client) {
	t.Helper()
	p := proxyBefore(t, m, oracle.Options{Name: name, Args: append([]string{"--proxy-leasing-prefix=" + leasedBelow}, more...)})
	return p, (&library{}).connect(t, p.ClientURL)
}

// owner is the lease that owns a key, as a member tells; 0: nobody does.
func owner(t *testing.T, direct *clientv3.Client, key string) int64 {
	t.Helper()
	r, err := direct.Get(bounded(t), leasedBelow+key)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Kvs) == 0 {
		return 0
	}
	return r.Kvs[0].Lease
}

// owns reads a key until somebody owns it.
func owns(t *testing.T, kv clientv3.KV, direct *clientv3.Client, key string) {
	t.Helper()
	comesTrue(t, key+" is owned", func() bool {
		if _, err := kv.Get(bounded(t), key); err != nil {
			t.Fatal(err)
		}
		return owner(t, direct, key) != 0
	})
}

// posted is what the JSON gateway of a server answers.
func posted(t *testing.T, m *oracle.Member, path, body string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(bounded(t), http.MethodPost, m.ClientURL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func bothKinds(t *testing.T, run func(t *testing.T, m *oracle.Member)) {
	t.Helper()
	for _, bin := range []oracle.Binary{oracle.Etcd(t), oracle.Kvd(t)} {
		t.Run("before "+bin.Name, func(t *testing.T) {
			t.Parallel()
			run(t, oracle.Start(t, bin, oracle.Options{}))
		})
	}
}

// TestALeasingProxyAnswersWithoutTheMember stops the member while the proxy owns a
// key that is there and one that is not.
func TestALeasingProxyAnswersWithoutTheMember(t *testing.T) {
	t.Parallel()
	bothKinds(t, func(t *testing.T, m *oracle.Member) {
		p, c := leasingProxy(t, m, "proxy", "--proxy-leasing-ttl=60s")
		direct := (&library{}).connect(t, m.ClientURL)
		put := mustPut(t, c, "k", "v")
		for _, key := range []string{"k", "absent"} {
			owns(t, c, direct, key)
		}
		has(t, c, "k", "v")
		want, err := direct.Get(bounded(t), "k")
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Pause(); err != nil {
			t.Fatal(err)
		}
		for _, o := range [][]clientv3.OpOption{nil, {clientv3.WithKeysOnly()}, {clientv3.WithCountOnly()}, {clientv3.WithSerializable()}, {clientv3.WithLimit(1)}} {
			got, err := c.Get(bounded(t), "k", o...)
			if err != nil {
				t.Fatal(err)
			}
			keysOnly, countOnly := len(o) > 0 && clientv3.OpGet("k", o...).IsKeysOnly(), len(o) > 0 && clientv3.OpGet("k", o...).IsCountOnly()
			switch {
			case got.Count != 1 || got.More || (len(got.Kvs) == 1) == countOnly:
				t.Errorf("%v: %v", o, got)
			case got.Header.ClusterId != want.Header.ClusterId || got.Header.MemberId != want.Header.MemberId ||
				got.Header.RaftTerm != want.Header.RaftTerm || got.Header.Revision < put.Header.Revision || got.Header.Revision > want.Header.Revision:
				t.Errorf("%v: the header is %v, a member's %v", o, got.Header, want.Header)
			case countOnly:
			case string(got.Kvs[0].Key) != "k" || got.Kvs[0].ModRevision != put.Header.Revision || (string(got.Kvs[0].Value) == "v") == keysOnly:
				t.Errorf("%v: %v", o, got.Kvs)
			}
		}
		has(t, c, "absent", "")
		if text := posted(t, p, "/v3/kv/range", `{"key":"aw=="}`); !strings.Contains(text, `"value":"dg=="`) {
			t.Errorf("over JSON: %s", text)
		}
		// Who has a token is not answered from it, and what is past needs the member.
		soon, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "token", "alice.7"), 200*time.Millisecond)
		defer cancel()
		if r, err := pb.NewKVClient(p.Dial()).Range(soon, &pb.RangeRequest{Key: []byte("k")}); err == nil {
			t.Errorf("with a token: %v", r)
		}
		if err := m.Resume(); err != nil {
			t.Fatal(err)
		}
		mustPut(t, c, "k", "w")
		has(t, direct, "k", "w")
		has(t, c, "k", "w")
	})
}

// TestLeasingIsEtcds has a proxy of ours and etcd's leasing client take keys from
// each other, in every way that there is to write.
func TestLeasingIsEtcds(t *testing.T) {
	t.Parallel()
	bothKinds(t, func(t *testing.T, m *oracle.Member) {
		_, ours := leasingProxy(t, m, "proxy")
		direct := (&library{}).connect(t, m.ClientURL)
		etcds := lessee(t, (&library{}).connect(t, m.ClientURL), leasedBelow)
		_, second := leasingProxy(t, m, "second")
		takeTurns(t, direct, map[string]clientv3.KV{"our proxy": ours, "etcd's client": etcds, "another proxy": second})
	})
}

// TestLeasingIsTheGRPCProxys does so with etcd's own proxy.
func TestLeasingIsTheGRPCProxys(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, oracle.Kvd(t), oracle.Options{})
	address := oracle.FreeAddress(t)
	theirs := exec.Command(oracle.Etcd(t).Path, "grpc-proxy", "start", "--endpoints="+m.Address(), "--listen-addr="+address,
		"--advertise-client-url="+address, "--data-dir="+t.TempDir(), "--experimental-leasing-prefix="+leasedBelow)
	if err := theirs.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theirs.Process.Kill(); theirs.Wait() })
	_, ours := leasingProxy(t, m, "proxy")
	etcds := (&library{}).connect(t, "http://"+address)
	if err := settles(t, func() error { _, err := etcds.Get(bounded(t), "k"); return err }); err != nil {
		t.Fatal(err)
	}
	takeTurns(t, (&library{}).connect(t, m.ClientURL), map[string]clientv3.KV{"our proxy": ours, "etcd's proxy": etcds})
}

// takeTurns has each own keys that the others write.
func takeTurns(t *testing.T, direct *clientv3.Client, all map[string]clientv3.KV) {
	t.Helper()
	ctx := bounded(t)
	n := 0
	for holder, owning := range all {
		for writer, writing := range all {
			if holder == writer && holder != "our proxy" {
				continue
			}
			n++
			p := fmt.Sprintf("t%d/", n)
			say := holder + " owns, " + writer + " writes: "
			see := func(what, key, want string) {
				t.Helper()
				for who, kv := range all {
					r, err := kv.Get(ctx, key)
					if err != nil {
						t.Fatal(say, what, err)
					}
					got := ""
					if len(r.Kvs) > 0 {
						got = string(r.Kvs[0].Value)
					}
					if got != want {
						t.Errorf("%s%s: %s reads %q of %s, want %q", say, what, who, got, key, want)
					}
				}
			}
			for _, key := range []string{"absent", "a", "b", "c", "d", "e"} {
				if key != "absent" {
					mustPut(t, writing, p+key, "1")
				}
				owns(t, owning, direct, p+key)
			}
			mustPut(t, writing, p+"absent", "1")
			see("a put of what was not there", p+"absent", "1")
			// etcd's library does what it writes to keys that it does not own twice.
			r, err := writing.Delete(ctx, p+"a", clientv3.WithPrevKV())
			if err != nil || r.Header.Revision == 0 || !strings.HasPrefix(writer, "etcd's") && (r.Deleted != 1 || len(r.PrevKvs) != 1) {
				t.Errorf("%sdelete: %v, %v", say, r, err)
			}
			see("a delete", p+"a", "")
			before, err := direct.Get(ctx, p+"b")
			if err != nil {
				t.Fatal(err)
			}
			txn, err := writing.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(p+"b"), "=", before.Kvs[0].ModRevision)).
				Then(clientv3.OpPut(p+"b", "2"), clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut(p+"c", "2"), clientv3.OpDelete(p + "d")}, nil)).
				Else(clientv3.OpPut(p+"e", "2")).Commit()
			if err != nil || !txn.Succeeded || len(txn.Responses) != 2 {
				t.Fatalf("%sa transaction: %v, %v", say, txn, err)
			}
			for key, want := range map[string]string{"b": "2", "c": "2", "d": "", "e": "1"} {
				see("a transaction", p+key, want)
			}
			for key := range map[string]bool{"b": true, "c": true, "e": true} {
				owns(t, owning, direct, p+key)
			}
			if r, err := writing.Delete(ctx, p, clientv3.WithPrefix()); err != nil || r.Deleted != 4 {
				t.Errorf("%sdelete of a range: %v, %v", say, r, err)
			}
			for _, key := range []string{"absent", "b", "c", "e"} {
				see("a delete of a range", p+key, "")
			}
			for i := range 5 {
				mustPut(t, writing, p+"n", fmt.Sprint(i))
				see("puts", p+"n", fmt.Sprint(i))
			}
		}
	}
}

// TestALeasingProxyGivesUpWhatItMayNotKeep: keys with a lease are not owned; a
// stopped proxy leaves nothing behind; and keys that are read once are not worth it.
func TestALeasingProxyGivesUpWhatItMayNotKeep(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, oracle.Kvd(t), oracle.Options{})
	p, c := leasingProxy(t, m, "proxy", "--proxy-namespace=ns/")
	outside := (&library{}).connect(t, m.ClientURL)
	ctx := bounded(t)
	lease, err := c.Grant(ctx, 60)
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, c, "k", "v")
	comesTrue(t, "k is owned, inside the namespace", func() bool {
		has(t, c, "k", "v")
		r, err := outside.Get(ctx, "ns/"+leasedBelow+"k")
		return err == nil && len(r.Kvs) == 1 && r.Kvs[0].Lease != 0
	})
	mustPut(t, c, "k", "v", clientv3.WithLease(lease.ID))
	has(t, c, "k", "v")
	if _, err := c.Revoke(ctx, lease.ID); err != nil {
		t.Fatal(err)
	}
	has(t, c, "k", "")
	has(t, c, "once", "")
	if r, err := outside.Get(ctx, "ns/"+leasedBelow+"once"); err != nil || len(r.Kvs) != 0 {
		t.Errorf("what is read once is owned: %v, %v", r, err)
	}
	// All, the ownership keys too.
	if _, err := c.Delete(ctx, "", clientv3.WithFromKey()); err != nil {
		t.Fatal(err)
	}
	if r, err := outside.Get(ctx, "", clientv3.WithFromKey()); err != nil || len(r.Kvs) != 0 {
		t.Errorf("after all is deleted there are %v, %v", r, err)
	}
	comesTrue(t, "another is owned", func() bool {
		has(t, c, "j", "")
		r, err := outside.Get(ctx, "ns/"+leasedBelow, clientv3.WithPrefix())
		return err == nil && len(r.Kvs) > 0
	})
	if status, body, err := p.Get(ctx, "/metrics"); err != nil || status != http.StatusOK || !strings.Contains(body, "kvd_proxy_leased_ranges_total") {
		t.Errorf("%d, %v", status, err)
	}
	p.Stop()
	if r, err := outside.Get(ctx, "", clientv3.WithFromKey()); err != nil || len(r.Kvs) != 0 {
		t.Errorf("a stopped proxy leaves %v, %v", r, err)
	}
}

// TestLeasingNeedsNoTrustOnceThereAreUsers: when authentication is enabled, who has
// no token reads nothing any more, and who has one writes as it may.
func TestLeasingNeedsNoTrustOnceThereAreUsers(t *testing.T) {
	t.Parallel()
	bothKinds(t, func(t *testing.T, m *oracle.Member) {
		p, c := leasingProxy(t, m, "proxy")
		direct := (&library{}).connect(t, m.ClientURL)
		ctx := bounded(t)
		mustPut(t, c, "k", "v")
		owns(t, c, direct, "k")
		has(t, c, "k", "v")
		for _, err := range []error{
			func() error { _, err := c.UserAdd(ctx, "root", "root"); return err }(),
			func() error { _, err := c.UserGrantRole(ctx, "root", "root"); return err }(),
			func() error { _, err := c.AuthEnable(ctx); return err }(),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		plain := pb.NewKVClient(p.Dial())
		comesTrue(t, "who has no token is refused", func() bool {
			_, err := plain.Range(ctx, &pb.RangeRequest{Key: []byte("k")})
			return status.Code(err) == codes.InvalidArgument
		})
		token, err := pb.NewAuthClient(p.Dial()).Authenticate(ctx, &pb.AuthenticateRequest{Name: "root", Password: "root"})
		if err != nil {
			t.Fatal(err)
		}
		as := metadata.AppendToOutgoingContext(ctx, "token", token.Token)
		if _, err := plain.Put(as, &pb.PutRequest{Key: []byte("k"), Value: []byte("w")}); err != nil {
			t.Fatal(err)
		}
		r, err := plain.Range(as, &pb.RangeRequest{Key: []byte("k")})
		if err != nil || string(r.Kvs[0].Value) != "w" {
			t.Errorf("root reads %v, %v", r, err)
		}
		if _, err := pb.NewAuthClient(p.Dial()).AuthDisable(as, &pb.AuthDisableRequest{}); err != nil {
			t.Fatal(err)
		}
		owns(t, c, direct, "k")
		has(t, c, "k", "w")
	})
}
