package compat

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	clientv3 "go.etcd.io/etcd/client/v3"

	"kvd/test/oracle"
)

// stressed is what a client did to one key.
type stressed struct {
	key    int
	write  bool
	value  string // written, or read
	failed bool   // a write of which nobody knows whether it was done
}

// register is a key that is written and read; of a write that failed it is open
// whether and when it is done.
var register = porcupine.Model{
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[int][]porcupine.Operation{}
		for _, o := range all {
			key := o.Input.(stressed).key
			byKey[key] = append(byKey[key], o)
		}
		var parts [][]porcupine.Operation
		for _, part := range byKey {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, in, _ any) (bool, any) {
		if o := in.(stressed); o.write {
			return true, o.value
		} else {
			return o.value == state, state
		}
	},
	DescribeOperation: func(in, _ any) string { return fmt.Sprintf("%+v", in) },
}

// TestLeasedReadsAreLinearizable has clients of two leasing proxies read and write
// the same keys, while a proxy is stopped for longer than its session lives, and the
// leader for as long. (etcd's leasing library does some writes twice, and so does
// not take part.)
func TestLeasedReadsAreLinearizable(t *testing.T) {
	t.Parallel()
	const keys, clients, ttl = 3, 3, 2 * time.Second
	c := oracle.StartCluster(t, []oracle.Binary{oracle.Kvd(t)}, oracle.ClusterOptions{Size: 3})
	var proxies []*oracle.Member
	var kvs []clientv3.KV
	for i := range 2 {
		p, _ := leasingProxy(t, c.Members[i], fmt.Sprintf("proxy%d", i), "--proxy-leasing-ttl=2s", "--proxy-failure-wait=300ms")
		proxies = append(proxies, p)
		for range clients {
			kvs = append(kvs, (&library{}).connect(t, p.ClientURL))
		}
	}
	running, stop := context.WithCancel(t.Context())
	defer stop()
	var mu sync.Mutex
	var history []porcupine.Operation
	begin := time.Now()
	reads := 0
	var work sync.WaitGroup
	for who, kv := range kvs {
		work.Go(func() {
			rng := rand.New(rand.NewPCG(11, uint64(who)))
			for n := 0; running.Err() == nil; n++ {
				o := stressed{key: rng.IntN(keys), write: rng.IntN(40) == 0, value: fmt.Sprintf("%d.%d", who, n)}
				ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
				at := time.Since(begin)
				var err error
				if name := fmt.Sprintf("stress/%d", o.key); o.write {
					_, err = kv.Put(ctx, name, o.value)
				} else {
					var r *clientv3.GetResponse
					if r, err = kv.Get(ctx, name); err == nil {
						o.value = ""
						if len(r.Kvs) > 0 {
							o.value = string(r.Kvs[0].Value)
						}
					}
				}
				cancel()
				done := porcupine.Operation{ClientId: who, Input: o, Call: int64(at), Return: int64(time.Since(begin))}
				if err != nil && o.write { // it may be done at any time from now on
					o.failed = true
					done.Input, done.Return = o, int64(time.Hour)
				}
				mu.Lock()
				if err == nil || o.write {
					history = append(history, done)
				}
				if err == nil && !o.write {
					reads++
				}
				mu.Unlock()
				time.Sleep(time.Duration(rng.IntN(4)) * time.Millisecond) // a checker has to think about all of it
			}
		})
	}
	pause := func(m *oracle.Member, long time.Duration) {
		if err := m.Pause(); err != nil {
			t.Error(err)
		}
		time.Sleep(long)
		if err := m.Resume(); err != nil {
			t.Error(err)
		}
		time.Sleep(ttl / 2)
	}
	time.Sleep(ttl / 2)
	pause(proxies[0], ttl+ttl/2) // its session ends, and it does not know
	pause(c.Leader(), ttl)
	pause(proxies[1], ttl+ttl/2)
	stop()
	work.Wait()
	verdict := porcupine.CheckOperationsTimeout(register, history, 20*time.Second)
	if verdict != porcupine.Ok {
		t.Errorf("%d calls are not linearizable: %s", len(history), verdict)
	}
	answered := 0
	for _, p := range proxies {
		answered += metricOf(t, p, "kvd_proxy_leased_ranges_total")
	}
	t.Logf("%d calls, %d reads, %d of them answered by a proxy", len(history), reads, answered)
	if answered < reads/20 {
		t.Errorf("the proxies have answered %d of %d reads: this was no test of leasing", answered, reads)
	}
}

// TestAProxyThatWasStoppedAnswersNothingOld stops a proxy until another has written
// the keys that it owned, asks it for them, and lets it go on.
func TestAProxyThatWasStoppedAnswersNothingOld(t *testing.T) {
	t.Parallel()
	bothKinds(t, func(t *testing.T, m *oracle.Member) {
		owner, c := leasingProxy(t, m, "owner", "--proxy-leasing-ttl=2s")
		_, other := leasingProxy(t, m, "other")
		direct := (&library{}).connect(t, m.ClientURL)
		mustPut(t, other, "k", "old")
		owns(t, c, direct, "k")
		comesTrue(t, "the owner answers", func() bool {
			has(t, c, "k", "old")
			return metricOf(t, owner, "kvd_proxy_leased_ranges_total") > 0
		})
		if err := owner.Pause(); err != nil {
			t.Fatal(err)
		}
		mustPut(t, other, "k", "new") // once the session has ended
		const asked = 200
		ctx := bounded(t)
		sent := make(chan struct{}, asked)
		answers := make(chan error, asked)
		for range asked {
			go func() {
				sent <- struct{}{}
				r, err := c.Get(ctx, "k")
				if err == nil && string(r.Kvs[0].Value) != "new" {
					err = fmt.Errorf("the answer is %s", r.Kvs[0].Value)
				}
				answers <- err
			}()
		}
		for range asked {
			<-sent
		}
		if err := owner.Resume(); err != nil {
			t.Fatal(err)
		}
		for range asked {
			if err := <-answers; err != nil {
				t.Error(err)
				break
			}
		}
	})
}

// metricOf is the value of a metric without labels.
func metricOf(t *testing.T, m *oracle.Member, name string) (value int) {
	t.Helper()
	_, body, err := m.Get(bounded(t), "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	var f float64
	for line := range strings.Lines(body) {
		if _, err := fmt.Sscanf(line, name+" %g", &f); err == nil {
			return int(f)
		}
	}
	t.Fatalf("%s tells of no %s", m.Name, name)
	return 0
}
