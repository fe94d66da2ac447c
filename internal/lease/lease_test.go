package lease

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kvd/internal/store"
)

// TestLeasesOfEtcdAreRead loads what etcd 3.7.3 wrote; store/testdata/README.md
// says what it had been through.
func TestLeasesOfEtcdAreRead(t *testing.T) {
	f, err := store.Open(unpack(t, "testdata/etcd-3.7.3.db.gz"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := f.Read()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := Load(r)
	if err != nil {
		t.Fatal(err)
	}
	ttls := map[int64]int{}
	for _, l := range b.View().All() {
		ttls[l.TTL]++
		if _, want := l.encode(); string(r.Value(store.Lease, row(l.ID))) != string(want) {
			t.Errorf("lease %d: etcd wrote %x, we would write %x", l.ID, r.Value(store.Lease, row(l.ID)), want)
		}
	}
	if fmt.Sprint(ttls) != "map[100:2 6000:1 9000000000:1]" {
		t.Errorf("leases by TTL: %v", ttls)
	}
	if l, ok := b.Lease(-1000); !ok || l.TTL != 100 {
		t.Errorf("lease -1000: %v, %v", l, ok)
	}
}

func unpack(t *testing.T, name string) (path string) {
	t.Helper()
	packed, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	z, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	image, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDamagedRowIsNamed(t *testing.T) {
	for name, value := range map[string]string{
		"no lease":  "\x10\x02",
		"cut short": "\x08\xe9\x07\x10",
		"no field":  "\xff",
	} {
		m := store.NewMem()
		var b store.Batch
		b.Put(store.Lease, row(1001), []byte(value))
		if err := m.Commit(store.Stamp{}, &b); err != nil {
			t.Fatal(err)
		}
		r, err := m.Read()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Load(r); err == nil || !strings.Contains(err.Error(), "lease 00000000000003e9: the row is damaged") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRowSkipsUnknownFields(t *testing.T) {
	l, err := decode([]byte("\x08\x07\x10\x05\x20\x09\x2a\x03abc\x18\x02"))
	if err != nil || l != (Lease{ID: 7, TTL: 5, Remaining: 2}) {
		t.Errorf("%v, %v", l, err)
	}
}

func TestRowsSurviveTheRoundTrip(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 1000 {
		want := Lease{ID(random.Uint64() | 1), int64(random.Uint64()), int64(random.Uint64N(3))}
		_, encoded := want.encode()
		if got, err := decode(encoded); err != nil || got != want {
			t.Fatalf("%v became %v, %v", want, got, err)
		}
	}
}

// TestBookAgreesWithASlowOne plays random commands on a map of maps, and looks
// again at views that were taken on the way.
func TestBookAgreesWithASlowOne(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := newScene(t)
	slow := map[ID]map[string]bool{}
	taken := map[string]View{} // by what they showed
	for range 20_000 {
		id, key := ID(random.IntN(300)-150), fmt.Sprint(random.IntN(50))
		var rows store.Batch
		switch random.IntN(6) {
		case 0:
			_, err := s.book.Grant(id, 60, 1, &rows)
			switch {
			case id == 0 && !errors.Is(err, ErrNotFound), id != 0 && slow[id] != nil && !errors.Is(err, ErrExists):
				t.Fatalf("grant %d: %v", id, err)
			case id != 0 && slow[id] == nil:
				slow[id] = map[string]bool{}
			}
		case 1, 2, 3:
			if known := s.book.Attach(id, key); known != (slow[id] != nil) {
				t.Fatalf("attach to %d: %v", id, known)
			}
			if slow[id] != nil {
				slow[id][key] = true
			}
		case 4:
			s.book.Detach(id, key)
			delete(slow[id], key)
		case 5:
			if random.IntN(4) > 0 {
				continue
			}
			keys, err := s.book.Revoke(id, &rows)
			if (err == nil) != (slow[id] != nil) || len(keys) != len(slow[id]) {
				t.Fatalf("revoke %d: %v, %v; want %v", id, keys, err, slow[id])
			}
			delete(slow, id)
		}
		if random.IntN(400) == 0 {
			v := s.book.View()
			taken[show(v)] = v
		}
	}
	for id, want := range slow {
		keys := s.book.Keys(id)
		if len(keys) != len(want) {
			t.Fatalf("lease %d has %v, want %v", id, keys, want)
		}
		for i, key := range keys {
			if !want[key] || i > 0 && keys[i-1] >= key {
				t.Fatalf("lease %d has %v, want %v", id, keys, want)
			}
		}
	}
	if s.book.Len() != len(slow) {
		t.Fatalf("%d leases, want %d", s.book.Len(), len(slow))
	}
	for want, v := range taken {
		if got := show(v); got != want {
			t.Fatalf("a view has changed: it shows\n%s\nand showed\n%s", got, want)
		}
	}
}

// alone is a book of lease 1.
func alone(t *testing.T) *Book {
	t.Helper()
	s := newScene(t)
	var rows store.Batch
	if _, err := s.book.Grant(1, 60, 1, &rows); err != nil {
		t.Fatal(err)
	}
	return s.book
}

func TestViewIsFreeWithoutAChange(t *testing.T) {
	b := alone(t)
	v := b.View()
	b.Detach(1, "nothing")
	if b.View() != v {
		t.Error("another view, and nothing had changed")
	}
	if n := testing.AllocsPerRun(100, func() { b.View() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestEveryChangeShowsInTheNextView(t *testing.T) {
	for name, change := range map[string]func(*Book){
		"attach":     func(b *Book) { b.Attach(1, "b") },
		"detach":     func(b *Book) { b.Detach(1, "a") },
		"checkpoint": func(b *Book) { b.Checkpoint(1, 5, nil) },
		"raise":      func(b *Book) { b.Raise(100) },
		"grant":      func(b *Book) { _, _ = b.Grant(2, 60, 1, &store.Batch{}) },
		"revoke":     func(b *Book) { _, _ = b.Revoke(1, &store.Batch{}) },
	} {
		b := alone(t)
		b.Attach(1, "a")
		before := show(b.View())
		if change(b); show(b.View()) == before {
			t.Errorf("%s: still\n%s", name, before)
		}
	}
}
