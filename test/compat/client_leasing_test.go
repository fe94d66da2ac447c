package compat

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/leasing"

	"kvd/test/oracle"
)

// lessee is a client whose reads are cached for as long as it holds leases on
// keys.
func lessee(t *testing.T, c *clientv3.Client, prefix string, opts ...concurrency.SessionOption) clientv3.KV {
	t.Helper()
	kv, end, err := leasing.NewKV(c, prefix, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	return kv
}

func TestClientsLeaseKeys(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, target(t), oracle.Options{})
	l := &library{&oracle.Cluster{Members: []*oracle.Member{m}}}
	for _, c := range []struct {
		name string
		run  func(t *testing.T, l *library, p string)
	}{
		{"what one puts another gets", leasingPutGet},
		{"ranges are of now", leasingRanges},
		{"a put ends another's lease on a key", leasingInvalidates},
		{"a cached answer is what the cluster would give", leasingCached},
		{"an owner reads without the server, and no further than its key", leasingDisconnected},
		{"an owner and others delete", leasingDeletes},
		{"transactions of an owner", leasingTxns},
		{"transactions of others end leases", leasingOtherTxns},
		{"transactions are as without leases", leasingRandom},
		{"calls that cannot be made fail", leasingErrors},
		{"puts, gets and deletes at once", leasingAtOnce},
		{"any operation", leasingDo},
		{"an owner whose session ends asks again", leasingSessionEnds},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, l, strings.ReplaceAll(c.name, " ", "-"))
		})
	}
}

func leasingPutGet(t *testing.T, l *library, p string) {
	c := l.client(t, 0)
	one, two := lessee(t, c, "leases/"+p), lessee(t, l.client(t, 0), "leases/"+p)
	has(t, one, p+"k", "")
	mustPut(t, two, p+"k", "def")
	r, err := one.Get(bounded(t), p+"k")
	if err != nil || string(r.Kvs[0].Value) != "def" || string(r.Kvs[0].Key) != p+"k" {
		t.Fatalf("got %v, %v", r, err)
	}
}

func leasingRanges(t *testing.T, l *library, p string) {
	c := l.client(t, 0)
	kv := lessee(t, c, "leases/"+p)
	for i := range 5 {
		mustPut(t, c, fmt.Sprintf("%s%d", p, i), "x")
		has(t, kv, fmt.Sprintf("%s%d", p, i), "x")
	}
	for _, o := range [][]clientv3.OpOption{
		{clientv3.WithPrefix()},
		{clientv3.WithPrefix(), clientv3.WithLimit(2), clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend)},
		{clientv3.WithPrefix(), clientv3.WithCountOnly()},
		{clientv3.WithPrefix(), clientv3.WithKeysOnly()},
	} {
		want, errWant := c.Get(bounded(t), p, o...)
		got, errGot := kv.Get(bounded(t), p, o...)
		if errWant != nil || errGot != nil || fmt.Sprint(want.Kvs) != fmt.Sprint(got.Kvs) || want.Count != got.Count || want.More != got.More {
			t.Errorf("got %v, %v\nwant %v, %v", got, errGot, want, errWant)
		}
	}
}

func leasingInvalidates(t *testing.T, l *library, p string) {
	c := l.client(t, 0)
	owner, other := lessee(t, c, "leases/"+p), lessee(t, l.client(t, 0), "leases/"+p)
	has(t, owner, p+"new", "") // a key that is not there is leased, too
	mustPut(t, other, p+"new", "1")
	has(t, owner, p+"new", "1")
	mustPut(t, other, p+"new", "2")
	has(t, owner, p+"new", "2")
	// Concurrently, the owner never sees a value go back.
	ctx := bounded(t)
	done := make(chan error, 1)
	go func() {
		for i := range 20 {
			if _, err := other.Put(ctx, p+"count", fmt.Sprintf("%04d", i)); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for last := ""; last != "0019"; {
		r, err := owner.Get(ctx, p+"count")
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Kvs) == 0 {
			continue
		}
		if now := string(r.Kvs[0].Value); now < last {
			t.Fatalf("%s after %s", now, last)
		} else {
			last = now
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func leasingCached(t *testing.T, l *library, p string) {
	c := l.client(t, 0)
	kv := lessee(t, c, "leases/"+p)
	mustPut(t, kv, p+"k", "abc")
	mustPut(t, kv, p+"k", "def")
	for _, o := range [][]clientv3.OpOption{
		{},
		{clientv3.WithKeysOnly()},
		{clientv3.WithCountOnly()},
		{clientv3.WithLimit(1)},
		{clientv3.WithMinCreateRev(1)},
		{clientv3.WithSerializable()},
		{clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend)},
		{clientv3.WithMaxModRev(1)},
		{clientv3.WithMinModRev(1 << 40)},
		{clientv3.WithMaxCreateRev(1 << 40)},
	} {
		want, errWant := c.Get(bounded(t), p+"k", o...)
		got, errGot := kv.Get(bounded(t), p+"k", o...)
		if errWant != nil || errGot != nil || fmt.Sprint(want.Kvs) != fmt.Sprint(got.Kvs) {
			t.Errorf("got %v, %v\nwant %v, %v", got, errGot, want, errWant)
		}
	}
	put := mustPut(t, kv, p+"k", "ghi", clientv3.WithPrevKV())
	if put.PrevKv == nil || string(put.PrevKv.Value) != "def" {
		t.Errorf("the value before is %v", put.PrevKv)
	}
	if r, err := kv.Get(bounded(t), p+"k", clientv3.WithRev(put.Header.Revision-1)); err != nil || string(r.Kvs[0].Value) != "def" {
		t.Errorf("at the revision before: %v, %v", r, err)
	}
	if r, err := kv.Get(bounded(t), p+"k"); err != nil || string(r.Kvs[0].Value) != "ghi" {
		t.Errorf("now: %v, %v", r, err)
	}
}

func leasingDisconnected(t *testing.T, l *library, p string) {
	own := oracle.Start(t, l.cluster.Members[0].Binary, oracle.Options{}) // it is stopped for a while
	mine := &library{&oracle.Cluster{Members: []*oracle.Member{own}}}
	c := mine.client(t, 0)
	kv := lessee(t, c, "leases/"+p)
	mustPut(t, c, p+"k", "abc")
	has(t, kv, p+"k", "abc")
	if err := own.Pause(); err != nil {
		t.Fatal(err)
	}
	has(t, kv, p+"k", "abc")
	if err := own.Resume(); err != nil {
		t.Fatal(err)
	}
	mustPut(t, kv, p+"k", "def")
	has(t, c, p+"k", "def")
}

func leasingDeletes(t *testing.T, l *library, p string) {
	c := l.client(t, 0)
	owner, other := lessee(t, c, "leases/"+p), lessee(t, l.client(t, 0), "leases/"+p)
	mustPut(t, c, p+"k", "abc")
	has(t, owner, p+"k", "abc")
	r, err := owner.Delete(bounded(t), p+"k", clientv3.WithPrevKV())
	if err != nil || r.Deleted != 1 || string(r.PrevKvs[0].Value) != "abc" {
		t.Errorf("the owner's: %v, %v", r, err)
	}
	has(t, owner, p+"k", "")
	if r, err := owner.Delete(bounded(t), p+"k"); err != nil || r.Deleted != 0 {
		t.Errorf("the second: %v, %v", r, err)
	}
	mustPut(t, other, p+"k", "def") // not past the leases, which the owner holds still
	has(t, owner, p+"k", "def")
	if _, err := other.Delete(bounded(t), p+"k"); err != nil {
		t.Fatal(err)
	}
	has(t, owner, p+"k", "")
	for _, o := range []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithRange(p + "s9")} {
		for i := range 5 {
			mustPut(t, other, fmt.Sprintf("%ss%d", p, i), "x")
			has(t, owner, fmt.Sprintf("%ss%d", p, i), "x")
		}
		if r, err := other.Delete(bounded(t), p+"s", o); err != nil || r.Deleted != 5 {
			t.Errorf("of a range: %v, %v", r, err)
		}
		for i := range 5 {
			has(t, owner, fmt.Sprintf("%ss%d", p, i), "")
		}
	}
}

func leasingTxns(t *testing.T, l *library, p string) {
	c := l.client(t, 0)
	kv := lessee(t, c, "leases/"+p)
	ctx := bounded(t)
	mustPut(t, c, p+"k", "abc")
	has(t, kv, p+"k", "abc")
	for _, one := range []struct {
		compare []clientv3.Cmp
		want    bool
	}{
		{nil, true},
		{[]clientv3.Cmp{clientv3.Compare(clientv3.Value(p+"k"), "=", "abc")}, true},
		{[]clientv3.Cmp{clientv3.Compare(clientv3.Value(p+"k"), ">", "abc")}, false},
		{[]clientv3.Cmp{clientv3.Compare(clientv3.Version(p+"k"), "=", 1)}, true},
		{[]clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(p+"k"), ">", 0), clientv3.Compare(clientv3.ModRevision(p+"k"), "<", 1)}, false},
		{[]clientv3.Cmp{clientv3.Compare(clientv3.LeaseValue(p+"k"), "=", 0)}, true},
		{[]clientv3.Cmp{clientv3.Compare(clientv3.Value(p), ">", "abb").WithPrefix()}, true},
	} {
		r, err := kv.Txn(ctx).If(one.compare...).Then(clientv3.OpGet(p + "k")).Else(clientv3.OpGet(p+"k", clientv3.WithKeysOnly())).Commit()
		if err != nil || r.Succeeded != one.want || len(r.Responses) != 1 {
			t.Errorf("%v: %v, %v", one.compare, r, err)
		}
	}
	r, err := kv.Txn(ctx).Then(clientv3.OpPut(p+"k", "def"), clientv3.OpPut(p+"new", "1")).Commit()
	if err != nil || !r.Succeeded {
		t.Fatal(r, err)
	}
	has(t, kv, p+"k", "def")
	has(t, kv, p+"new", "1")
	r, err = kv.Txn(ctx).Then(clientv3.OpDelete(p+"k"), clientv3.OpGet(p+"new")).Commit()
	if err != nil || r.Responses[0].GetResponseDeleteRange().Deleted != 1 {
		t.Fatal(r, err)
	}
	has(t, kv, p+"k", "")
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := kv.Txn(ended).Then(clientv3.OpPut(p+"k", "x")).Commit(); err == nil {
		t.Error("a transaction whose context has ended is committed")
	}
}

func leasingOtherTxns(t *testing.T, l *library, p string) {
	c := l.client(t, 0)
	owner, other := lessee(t, c, "leases/"+p), lessee(t, l.client(t, 0), "leases/"+p)
	for i := range 5 {
		mustPut(t, c, fmt.Sprintf("%s%d", p, i), "a")
		has(t, owner, fmt.Sprintf("%s%d", p, i), "a")
	}
	r, err := other.Txn(bounded(t)).
		If(clientv3.Compare(clientv3.Value(p+"0"), "=", "a")).
		Then(clientv3.OpPut(p+"0", "b"), clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut(p+"1", "b")}, nil), clientv3.OpDelete(p+"2", clientv3.WithRange(p+"4"))).
		Commit()
	if err != nil || !r.Succeeded {
		t.Fatal(r, err)
	}
	for i, want := range []string{"b", "b", "", "", "a"} {
		has(t, owner, fmt.Sprintf("%s%d", p, i), want)
	}
}

// leasingRandom has an owner and another client run random transactions, and
// looks whether the owner sees what is there.
func leasingRandom(t *testing.T, l *library, p string) {
	c := l.client(t, 0)
	owner, other := lessee(t, c, "leases/"+p), lessee(t, l.client(t, 0), "leases/"+p)
	const keys = 6
	key := func(i int) string { return fmt.Sprintf("%s%d", p, i) }
	for i := range keys {
		mustPut(t, c, key(i), "0")
	}
	ctx := bounded(t)
	for _, err := range all(4, func(who int) error {
		rng := rand.New(rand.NewPCG(7, uint64(who)))
		kv := owner
		if who%2 == 1 {
			kv = other
		}
		for round := range 10 {
			var then, otherwise []clientv3.Op
			for i := range keys {
				switch rng.IntN(3) {
				case 0:
					then = append(then, clientv3.OpGet(key(i)))
				case 1:
					then = append(then, clientv3.OpPut(key(i), fmt.Sprint(who, round)))
				case 2:
					otherwise = append(otherwise, clientv3.OpPut(key(i), fmt.Sprint(who, round)))
				}
			}
			compare := clientv3.Compare(clientv3.Version(key(rng.IntN(keys))), ">", int64(rng.IntN(10)))
			if _, err := kv.Txn(ctx).If(compare).Then(then...).Else(otherwise...).Commit(); err != nil {
				return err
			}
		}
		return nil
	}) {
		if err != nil {
			t.Error(err)
		}
	}
	for i := range keys {
		want, err := c.Get(ctx, key(i))
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range []clientv3.KV{owner, other} {
			if got, err := kv.Get(ctx, key(i)); err != nil || fmt.Sprint(got.Kvs) != fmt.Sprint(want.Kvs) {
				t.Errorf("%s: got %v, %v; want %v", key(i), got, err, want.Kvs)
			}
		}
	}
}

func leasingErrors(t *testing.T, l *library, p string) {
	kv := lessee(t, l.client(t, 0), "leases/"+p)
	has(t, kv, p+"k", "")
	ended, cancel := context.WithCancel(bounded(t))
	cancel()
	if _, err := kv.Put(ended, p+"k", "v"); !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v", err)
	}
	if _, err := kv.Delete(ended, p+"k"); !errors.Is(err, context.Canceled) {
		t.Errorf("delete: %v", err)
	}
	if _, err := kv.Get(ended, p+"not leased"); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v", err)
	}
}

func leasingAtOnce(t *testing.T, l *library, p string) {
	ctx := bounded(t)
	kvs := make([]clientv3.KV, 4)
	for i := range kvs {
		kvs[i] = lessee(t, l.client(t, 0), "leases/"+p)
	}
	for _, err := range all(len(kvs), func(i int) error {
		for range 10 {
			if _, err := kvs[i].Put(ctx, p+"k", "abc"); err != nil {
				return err
			}
			if _, err := kvs[i].Get(ctx, p+"k"); err != nil {
				return err
			}
			if _, err := kvs[i].Delete(ctx, p+"k"); err != nil {
				return err
			}
		}
		return nil
	}) {
		if err != nil {
			t.Error(err)
		}
	}
	has(t, kvs[0], p+"k", "")
}

func leasingDo(t *testing.T, l *library, p string) {
	ctx := bounded(t)
	kv := lessee(t, l.client(t, 0), "leases/"+p)
	r, err := kv.Do(ctx, clientv3.OpTxn(
		[]clientv3.Cmp{clientv3.Compare(clientv3.Version(p+"k"), "=", 0)},
		[]clientv3.Op{clientv3.OpPut(p+"k", "1"), clientv3.OpGet(p + "k")}, nil))
	if err != nil || len(r.Txn().Responses) != 2 {
		t.Fatal(r, err)
	}
	if r, err := kv.Do(ctx, clientv3.OpGet(p+"k")); err != nil || len(r.Get().Kvs) != 1 {
		t.Error(r, err)
	}
	if r, err := kv.Do(ctx, clientv3.OpDelete(p+"k")); err != nil || r.Del().Deleted != 1 {
		t.Error(r, err)
	}
	if r, err := kv.Do(ctx, clientv3.OpPut(p+"k", "2")); err != nil || r.Put() == nil {
		t.Error(r, err)
	}
	has(t, kv, p+"k", "2")
}

func leasingSessionEnds(t *testing.T, l *library, p string) {
	ctx := bounded(t)
	c := l.client(t, 0)
	owner := lessee(t, c, "leases/"+p, concurrency.WithTTL(3))
	other := lessee(t, l.client(t, 0), "leases/"+p)
	has(t, owner, p+"k", "")
	leased, err := c.Get(ctx, "leases/"+p, clientv3.WithPrefix())
	if err != nil || len(leased.Kvs) != 1 {
		t.Fatal(leased, err)
	}
	if _, err := c.Revoke(ctx, clientv3.LeaseID(leased.Kvs[0].Lease)); err != nil {
		t.Fatal(err)
	}
	mustPut(t, other, p+"k", "1") // nobody has the key any more
	comesTrue(t, "the owner's new session", func() bool {
		r, err := owner.Get(ctx, p+"k")
		return err == nil && len(r.Kvs) == 1 && string(r.Kvs[0].Value) == "1"
	})
}
