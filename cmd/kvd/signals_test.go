package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
)

// held makes a data directory whose database somebody else has open, so that a
// start hangs for a while.
func held(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	p := launch(t, command(t, nil, flags(dir)...))
	p.client(t)
	p.signal(t, syscall.SIGTERM)
	p.status(t)
	db, err := os.OpenFile(filepath.Join(dir, "member", "snap", "db"), os.O_RDWR, 0)
	must(t, err)
	t.Cleanup(func() { db.Close() })
	must(t, unix.Flock(int(db.Fd()), unix.LOCK_EX))
	return dir
}

func TestATermBeforeReadinessEndsTheStart(t *testing.T) {
	m := newManager(t)
	p := launch(t, command(t, []string{"NOTIFY_SOCKET=" + m.path}, flags(held(t))...))
	m.expect(t, "STATUS=opening the database")
	p.signal(t, syscall.SIGTERM)
	if status := p.status(t); status != 0 {
		t.Errorf("status %d", status)
	}
	p.hear(t, "stopped before the member was open")
}

func TestASecondSignalEndsItAtOnce(t *testing.T) {
	m := newManager(t)
	p := launch(t, command(t, []string{"NOTIFY_SOCKET=" + m.path}, flags(held(t))...))
	m.expect(t, "STATUS=opening the database")
	p.signal(t, syscall.SIGTERM)
	p.hear(t, "received signal; shutting down")
	time.Sleep(echo + 50*time.Millisecond) // sooner it is taken for the same signal
	p.signal(t, syscall.SIGINT)
	if status := p.status(t); status != 128+int(syscall.SIGINT) {
		t.Errorf("status %d", status)
	}
	p.hear(t, "told to stop again; ending at once")
}

func TestASignalThatComesTwiceIsOne(t *testing.T) {
	p := launch(t, command(t, nil, flags(t.TempDir())...))
	p.client(t)
	p.signal(t, syscall.SIGTERM)
	p.signal(t, syscall.SIGINT)
	if status := p.status(t); status != 0 {
		t.Errorf("status %d", status)
	}
}

// TestATermLosesNothingAcknowledged ends a member while clients write and
// watch.
func TestATermLosesNothingAcknowledged(t *testing.T) {
	dir := t.TempDir()
	p := launch(t, command(t, nil, flags(dir)...))
	c := dial(t, p.client(t))
	events := c.Watch(limited(t), "k", clientv3.WithPrefix())
	var mu sync.Mutex
	acknowledged := map[string]string{}
	var writing sync.WaitGroup
	for w := range 8 {
		writing.Go(func() {
			for i := range 1_000_000 {
				key, value := fmt.Sprintf("k%d/%d", w, i), fmt.Sprint(i)
				if _, err := c.Put(limited(t), key, value); err != nil {
					return
				}
				mu.Lock()
				acknowledged[key] = value
				mu.Unlock()
			}
		})
	}
	enough := func() bool { mu.Lock(); defer mu.Unlock(); return len(acknowledged) >= 500 }
	for limit := time.Now().Add(patience); !enough(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("it is too slow for this test")
		}
	}
	began := time.Now()
	p.signal(t, syscall.SIGTERM)
	if status := p.status(t); status != 0 {
		t.Errorf("status %d", status)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v, though nothing hung", took)
	}
	c.Close()
	writing.Wait()
	if e, ok := <-events; !ok || len(e.Events) == 0 {
		t.Error("the watch saw nothing")
	}

	again := launch(t, command(t, nil, flags(dir)...))
	r, err := dial(t, again.client(t)).Get(limited(t), "k", clientv3.WithPrefix())
	must(t, err)
	for _, kv := range r.Kvs {
		if acknowledged[string(kv.Key)] == string(kv.Value) {
			delete(acknowledged, string(kv.Key))
		}
	}
	if len(acknowledged) > 0 {
		t.Errorf("%d acknowledged puts are lost, as %v", len(acknowledged), acknowledged)
	}
}
