package compat

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func session1(t *testing.T, c *clientv3.Client, opts ...concurrency.SessionOption) *concurrency.Session {
	t.Helper()
	s, err := concurrency.NewSession(c, append([]concurrency.SessionOption{concurrency.WithTTL(60)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Orphan)
	return s
}

func TestClientsElectLockAndTransact(t *testing.T) {
	t.Parallel()
	l := newLibrary(t)
	for _, c := range []struct {
		name string
		run  func(*testing.T, *library)
	}{
		{"one at a time is elected, and observers hear of each", electionsInTurn},
		{"an election passes on when its leader's lease ends", electionFailover},
		{"a session that campaigns again is elected with its new value", electionAgain},
		{"an election under a prefix of a key of others", electionOnPrefix},
		{"an election is resumed", electionResumed},
		{"an observer hears of a leader behind a compaction", electionCompacted},
		{"a mutex excludes across members", mutexExcludes},
		{"a mutex is tried", mutexTried},
		{"a mutex is released once", mutexReleasedOnce},
		{"a mutex is locked again by its session", mutexAgain},
		{"a waiter whose session ends does not get the mutex", mutexSessionEnds},
		{"waiters wait for the holder of now", mutexWaitsForHolder},
		{"a session ends with its lease", sessionEnds},
		{"conflicting transactions keep the sum", stmConflict},
		{"a transaction puts a new key", stmPutsNew},
		{"a transaction is aborted", stmAborted},
		{"transactions of all kinds are serializable", stmSerialize},
		{"a transaction sees a deletion", stmSeesDeletion},
		{"a snapshot transaction detects another's put", stmSnapshotPut},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, l)
		})
	}
}

func electionsInTurn(t *testing.T, l *library) {
	const candidates, observers = 3, 3
	heard := make(chan string, candidates*observers)
	ctx := bounded(t)
	for i := range observers {
		e := concurrency.NewElection(session1(t, l.client(t, i)), "turn")
		ch := e.Observe(ctx)
		go func() {
			for r := range ch {
				heard <- fmt.Sprintf("%d %s", i, r.Kvs[0].Value)
			}
		}()
	}
	var leads atomic.Int32
	elected := make(chan *concurrency.Election, candidates)
	for i := range candidates {
		e := concurrency.NewElection(session1(t, l.client(t, i)), "turn")
		go func() {
			if err := e.Campaign(ctx, strconv.Itoa(i)); err != nil {
				t.Error(err)
			}
			elected <- e
		}()
	}
	for range candidates {
		e := <-elected
		if n := leads.Add(1); n != 1 {
			t.Errorf("%d lead at once", n)
		}
		r, err := e.Leader(ctx)
		if err != nil || string(r.Kvs[0].Key) != e.Key() || r.Kvs[0].CreateRevision != e.Rev() {
			t.Errorf("the leader is %v, want %s (%v)", r, e.Key(), err)
			break
		}
		seen := map[string]bool{}
		for len(seen) < observers {
			select {
			case line := <-heard:
				if strings.HasSuffix(line, " "+string(r.Kvs[0].Value)) {
					seen[line] = true
				}
			case <-ctx.Done():
				t.Fatalf("of %s heard %v", r.Kvs[0].Value, seen)
			}
		}
		leads.Add(-1)
		if err := e.Resign(ctx); err != nil {
			t.Error(err)
		}
	}
}

func electionFailover(t *testing.T, l *library) {
	ctx := bounded(t)
	first := session1(t, l.client(t, 0))
	e := concurrency.NewElection(first, "failover")
	if err := e.Campaign(ctx, "foo"); err != nil {
		t.Fatal(err)
	}
	r, ok := <-e.Observe(ctx)
	if !ok || string(r.Kvs[0].Value) != "foo" {
		t.Fatalf("heard %v", r)
	}
	next := make(chan error, 1)
	second := concurrency.NewElection(session1(t, l.client(t, 1)), "failover")
	go func() { next <- second.Campaign(ctx, "bar") }()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-next; err != nil {
		t.Fatal(err)
	}
	if r, ok := <-second.Observe(ctx); !ok || string(r.Kvs[0].Value) != "bar" {
		t.Errorf("heard %v", r)
	}
}

func electionAgain(t *testing.T, l *library) {
	ctx := bounded(t)
	s := session1(t, l.client(t, 0))
	one, two := concurrency.NewElection(s, "again"), concurrency.NewElection(s, "again")
	if err := one.Campaign(ctx, "foo"); err != nil {
		t.Fatal(err)
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	r := <-one.Observe(watching)
	if string(r.Kvs[0].Value) != "foo" {
		t.Errorf("heard %v", r)
	}
	if err := two.Campaign(ctx, "bar"); err != nil {
		t.Fatal(err)
	}
	if r := <-two.Observe(ctx); string(r.Kvs[0].Value) != "bar" {
		t.Errorf("heard %v", r)
	}
}

func electionOnPrefix(t *testing.T, l *library) {
	c := l.client(t, 0)
	mustPut(t, c, "onprefix", "")
	if err := concurrency.NewElection(session1(t, c), "onprefi").Campaign(bounded(t), "v"); err != nil {
		t.Error(err)
	}
}

func electionResumed(t *testing.T, l *library) {
	ctx := bounded(t)
	s := session1(t, l.client(t, 0))
	first := concurrency.NewElection(s, "resumed")
	if err := first.Campaign(ctx, "candidate1"); err != nil {
		t.Fatal(err)
	}
	leader, err := first.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	again := concurrency.ResumeElection(s, "resumed/", string(leader.Kvs[0].Key), leader.Kvs[0].CreateRevision)
	heard := again.Observe(ctx)
	if r := <-heard; string(r.Kvs[0].Value) != "candidate1" {
		t.Errorf("heard %v", r)
	}
	if err := again.Proclaim(ctx, "candidate2"); err != nil {
		t.Fatal(err)
	}
	r := <-heard
	if string(r.Kvs[0].Value) != "candidate2" || r.Kvs[0].CreateRevision != leader.Kvs[0].CreateRevision {
		t.Errorf("heard %v", r)
	}
	if err := again.Resign(ctx); err != nil {
		t.Error(err)
	}
	if _, err := again.Leader(ctx); !errors.Is(err, concurrency.ErrElectionNoLeader) {
		t.Errorf("after resigning: %v", err)
	}
}

func electionCompacted(t *testing.T, l *library) {
	ctx := bounded(t)
	c := l.client(t, 0)
	s := session1(t, c)
	e := concurrency.NewElection(s, "compacted")
	if err := e.Campaign(ctx, "abc"); err != nil {
		t.Fatal(err)
	}
	r := mustPut(t, c, "compacted-by", "x")
	if _, err := c.Compact(ctx, r.Header.Revision); err != nil && !strings.Contains(err.Error(), "compacted") {
		t.Fatal(err)
	}
	if r, ok := <-e.Observe(ctx); !ok || string(r.Kvs[0].Value) != "abc" {
		t.Errorf("heard %v", r)
	}
}

func mutexExcludes(t *testing.T, l *library) {
	ctx := bounded(t)
	var held atomic.Int32
	for _, err := range all(9, func(i int) error {
		m := concurrency.NewMutex(session1(t, l.client(t, i%3)), "mutex")
		if err := m.Lock(ctx); err != nil {
			return err
		}
		if n := held.Add(1); n != 1 {
			return fmt.Errorf("%d hold the mutex", n)
		}
		r, err := l.client(t, i%3).Txn(ctx).If(m.IsOwner()).Commit()
		if err != nil || !r.Succeeded {
			return fmt.Errorf("the owner is not: %w", err)
		}
		held.Add(-1)
		return m.Unlock(ctx)
	}) {
		if err != nil {
			t.Error(err)
		}
	}
}

func mutexTried(t *testing.T, l *library) {
	ctx := bounded(t)
	got := atomic.Int32{}
	for _, err := range all(6, func(i int) error {
		err := concurrency.NewMutex(session1(t, l.client(t, i%3)), "tried").TryLock(ctx)
		if err == nil {
			got.Add(1)
		}
		if errors.Is(err, concurrency.ErrLocked) {
			return nil
		}
		return err
	}) {
		if err != nil {
			t.Error(err)
		}
	}
	if got.Load() != 1 {
		t.Errorf("%d have got it", got.Load())
	}
}

func mutexReleasedOnce(t *testing.T, l *library) {
	ctx := bounded(t)
	m := concurrency.NewMutex(session1(t, l.client(t, 0)), "once")
	if err := m.Unlock(ctx); !errors.Is(err, concurrency.ErrLockReleased) {
		t.Errorf("before it is locked: %v", err)
	}
	if err := m.Lock(ctx); err != nil {
		t.Fatal(err)
	}
	if err := m.Unlock(ctx); err != nil {
		t.Error(err)
	}
	if err := m.Unlock(ctx); !errors.Is(err, concurrency.ErrLockReleased) {
		t.Errorf("the second time: %v", err)
	}
}

func mutexAgain(t *testing.T, l *library) {
	ctx := bounded(t)
	s := session1(t, l.client(t, 1))
	if err := concurrency.NewMutex(s, "relock").Lock(ctx); err != nil {
		t.Fatal(err)
	}
	if err := concurrency.NewMutex(s, "relock").Lock(ctx); err != nil {
		t.Error(err)
	}
}

func mutexSessionEnds(t *testing.T, l *library) {
	ctx := bounded(t)
	holder := concurrency.NewMutex(session1(t, l.client(t, 0)), "expires")
	if err := holder.Lock(ctx); err != nil {
		t.Fatal(err)
	}
	c := l.client(t, 1)
	s := session1(t, c)
	waiter := concurrency.NewMutex(s, "expires")
	ended := make(chan error, 1)
	go func() { ended <- waiter.Lock(ctx) }()
	comesTrue(t, "the waiter's key", func() bool {
		r, err := c.Get(ctx, "expires/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err == nil && r.Count == 2
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := holder.Unlock(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, concurrency.ErrSessionExpired) {
		t.Errorf("the waiter ends with %v", err)
	}
}

func mutexWaitsForHolder(t *testing.T, l *library) {
	ctx := bounded(t)
	c := l.client(t, 0)
	holding := session1(t, c)
	holder := concurrency.NewMutex(holding, "holder")
	if err := holder.Lock(ctx); err != nil {
		t.Fatal(err)
	}
	waiter := concurrency.NewMutex(session1(t, l.client(t, 2)), "holder")
	got := make(chan error, 1)
	go func() { got <- waiter.Lock(ctx) }()
	comesTrue(t, "the waiter's key", func() bool {
		r, err := c.Get(ctx, "holder/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err == nil && r.Count == 2
	})
	select {
	case err := <-got:
		t.Fatalf("the waiter does not wait: %v", err)
	default:
	}
	if err := holding.Close(); err != nil { // the lease takes the key with it
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
}

func sessionEnds(t *testing.T, l *library) {
	c := l.client(t, 0)
	s := session1(t, c, concurrency.WithTTL(3)) // it hears of its end when it next renews
	if _, err := c.Revoke(bounded(t), s.Lease()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Done():
	case <-bounded(t).Done():
		t.Error("the session does not end")
	}
	// One that takes over another's lease keeps it.
	grant, err := c.Grant(bounded(t), 60)
	if err != nil {
		t.Fatal(err)
	}
	if s := session1(t, c, concurrency.WithLease(grant.ID)); s.Lease() != grant.ID {
		t.Errorf("the session's lease is %x", s.Lease())
	}
}

func stmConflict(t *testing.T, l *library) {
	c := l.client(t, 0)
	const keys, each = 5, 100
	key := func(i int) string { return fmt.Sprintf("stm/%d", i) }
	for i := range keys {
		mustPut(t, c, key(i), strconv.Itoa(each))
	}
	for _, err := range all(keys*2, func(i int) error {
		rng := rand.New(rand.NewPCG(1, uint64(i)))
		from, to := key(i%keys), key(rng.IntN(keys))
		if from == to {
			return nil
		}
		_, err := concurrency.NewSTM(l.client(t, i%3), func(s concurrency.STM) error {
			a, errA := strconv.Atoi(s.Get(from))
			b, errB := strconv.Atoi(s.Get(to))
			part := rng.IntN(a + 1)
			s.Put(from, strconv.Itoa(a-part))
			s.Put(to, strconv.Itoa(b+part))
			return errors.Join(errA, errB)
		})
		return err
	}) {
		if err != nil {
			t.Error(err)
		}
	}
	sum := 0
	for i := range keys {
		r, err := c.Get(bounded(t), key(i))
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(string(r.Kvs[0].Value))
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	if sum != keys*each {
		t.Errorf("the sum is %d, want %d", sum, keys*each)
	}
}

func stmPutsNew(t *testing.T, l *library) {
	c := l.client(t, 0)
	if _, err := concurrency.NewSTM(c, func(s concurrency.STM) error { s.Put("stm-new", "bar"); return nil }); err != nil {
		t.Fatal(err)
	}
	has(t, c, "stm-new", "bar")
}

func stmAborted(t *testing.T, l *library) {
	c := l.client(t, 0)
	ctx, cancel := context.WithCancel(bounded(t))
	_, err := concurrency.NewSTM(c, func(s concurrency.STM) error {
		s.Put("stm-abort", "baz")
		cancel()
		s.Put("stm-abort", "bap")
		return nil
	}, concurrency.WithAbortContext(ctx))
	if err == nil {
		t.Error("a transaction whose context has ended is committed")
	}
	has(t, c, "stm-abort", "")
}

func stmSerialize(t *testing.T, l *library) {
	for _, level := range []concurrency.Isolation{concurrency.SerializableSnapshot, concurrency.Serializable} {
		c := l.client(t, 0)
		keys := []string{fmt.Sprintf("ser%d/a", level), fmt.Sprintf("ser%d/b", level), fmt.Sprintf("ser%d/c", level)}
		ctx, stop := context.WithCancel(bounded(t))
		wrote := make(chan error, 1)
		go func() {
			for i := 0; ; i++ {
				var ops []clientv3.Op
				for _, k := range keys {
					ops = append(ops, clientv3.OpPut(k, strconv.Itoa(i)))
				}
				if _, err := c.Txn(ctx).Then(ops...).Commit(); err != nil {
					wrote <- ctx.Err()
					return
				}
			}
		}()
		for _, err := range all(3, func(i int) error {
			for range 5 {
				same := true
				_, err := concurrency.NewSTM(l.client(t, i), func(s concurrency.STM) error {
					first := s.Get(keys[0])
					same = s.Get(keys[1]) == first && s.Get(keys[2]) == first
					return nil
				}, concurrency.WithIsolation(level), concurrency.WithPrefetch(keys...))
				if err != nil {
					return err
				}
				if !same {
					return errors.New("it has seen half of a write")
				}
			}
			return nil
		}) {
			if err != nil {
				t.Error(err)
			}
		}
		stop()
		if err := <-wrote; err == nil {
			t.Error("the writer failed before it was told to end")
		}
	}
}

func stmSeesDeletion(t *testing.T, l *library) {
	c := l.client(t, 0)
	mustPut(t, c, "stm-del", "bar")
	tries := 0
	_, err := concurrency.NewSTM(l.client(t, 1), func(s concurrency.STM) error {
		tries++
		s.Get("stm-del")
		if tries == 1 {
			if _, err := c.Delete(bounded(t), "stm-del"); err != nil {
				return err
			}
		}
		s.Put("stm-del2", "baz")
		return nil
	}, concurrency.WithIsolation(concurrency.RepeatableReads))
	if err != nil {
		t.Fatal(err)
	}
	if tries < 2 {
		t.Errorf("it was tried %d times", tries)
	}
	has(t, c, "stm-del2", "baz")
}

func stmSnapshotPut(t *testing.T, l *library) {
	c := l.client(t, 0)
	mustPut(t, c, "stm-snap", "")
	mustPut(t, c, "stm-snap", "")
	tries := 0
	_, err := concurrency.NewSTM(l.client(t, 2), func(s concurrency.STM) error {
		tries++
		s.Get("stm-snap")
		if tries == 1 {
			if _, err := c.Put(bounded(t), "stm-snap", "other"); err != nil {
				return err
			}
		}
		s.Put("stm-snap", "mine")
		return nil
	}, concurrency.WithIsolation(concurrency.SerializableSnapshot))
	if err != nil || tries != 2 {
		t.Errorf("%v after %d tries", err, tries)
	}
	r, err := c.Get(bounded(t), "stm-snap")
	if err != nil || string(r.Kvs[0].Value) != "mine" || r.Kvs[0].Version != 4 {
		t.Errorf("got %v, %v", r, err)
	}
}
