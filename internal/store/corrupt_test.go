package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sound returns the bytes of a file with branches, leaves and small buckets.
func sound(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	f := open(t, path)
	fill(t, f, 0, 5000)
	fill(t, f, 5000, 10)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// pagesOf returns the offsets of the pages in use that have the flags.
func pagesOf(t *testing.T, data []byte, flags uint16) (offsets []int) {
	t.Helper()
	w, err := newWalk(t.Context(), data)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.file(); err != nil {
		t.Fatal(err)
	}
	for id := range w.high {
		at := int(id) * w.pageSize
		if w.seen[id/64]>>(id%64)&1 == 1 && order.Uint64(data[at:]) == id && order.Uint16(data[at+8:]) == flags {
			offsets = append(offsets, at)
		}
	}
	return offsets
}

func TestDamageIsNamedAndRefused(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(t *testing.T, data []byte) []byte
		reason string
	}{
		"no bbolt file": {
			func(*testing.T, []byte) []byte { return []byte(strings.Repeat("not a store ", 2000)) },
			"head pages",
		},
		"shorter than a page": {
			func(_ *testing.T, data []byte) []byte { return data[:1000] },
			"cut short: 1000 bytes of",
		},
		"both heads zeroed": {
			func(_ *testing.T, data []byte) []byte { clear(data[:8192]); return data },
			"head pages",
		},
		"cut short": {
			func(_ *testing.T, data []byte) []byte { return data[:40960] },
			"cut short: 40960 bytes of",
		},
		"a zeroed leaf": {
			func(t *testing.T, data []byte) []byte {
				clear(data[pagesOf(t, data, leafPage)[3]:][:4096])
				return data
			},
			"calls itself page 0",
		},
		"a leaf of another kind": {
			func(t *testing.T, data []byte) []byte {
				order.PutUint16(data[pagesOf(t, data, leafPage)[3]+8:], 0x40)
				return data
			},
			"neither branch nor leaf",
		},
		"a row beyond its page": {
			func(t *testing.T, data []byte) []byte {
				order.PutUint32(data[pagesOf(t, data, leafPage)[3]+headerBytes+4:], 1<<30)
				return data
			},
			"lies outside the page",
		},
		"keys out of order": {
			func(t *testing.T, data []byte) []byte {
				page := data[pagesOf(t, data, leafPage)[3]:]
				row := page[headerBytes+rowBytes:]
				binary.BigEndian.PutUint64(row[order.Uint32(row[4:]):], 1<<60)
				return data
			},
			"out of order",
		},
		"a key that belongs on another page": {
			func(t *testing.T, data []byte) []byte {
				page := data[pagesOf(t, data, leafPage)[3]:]
				row := page[headerBytes+rowBytes*(int(order.Uint16(page[10:]))-1):]
				binary.BigEndian.PutUint64(row[order.Uint32(row[4:]):], 1<<60)
				return data
			},
			"out of order",
		},
		"a branch that points nowhere": {
			func(t *testing.T, data []byte) []byte {
				order.PutUint64(data[pagesOf(t, data, branchPage)[0]+headerBytes+8:], 1<<40)
				return data
			},
			"is pointed at",
		},
		"a loop": {
			func(t *testing.T, data []byte) []byte {
				at := pagesOf(t, data, branchPage)[0]
				order.PutUint64(data[at+headerBytes+8:], uint64(at/4096))
				return data
			},
			"twice",
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			if err := os.WriteFile(path, c.damage(t, sound(t)), 0o600); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the first refusal has let go of the lock
				_, err := Open(path, Options{})
				corrupt, ok := errors.AsType[*CorruptError](err)
				if !ok || corrupt.File != path || !strings.Contains(corrupt.Reason, c.reason) {
					t.Fatalf("%v, want %q", err, c.reason)
				}
			}
		})
	}
}

func TestOneTornHeadIsNoDamage(t *testing.T) {
	for head := range 2 {
		data := sound(t)
		clear(data[head*4096:][:4096])
		path := filepath.Join(t.TempDir(), "db")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		f := open(t, path)
		r, err := f.Read()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		// The other head is of the last commit or of the one before it.
		if n := count(t, r); n != 5010 && n != 5000 {
			t.Errorf("head %d torn: %d rows", head, n)
		}
	}
}

// TestRandomDamageNeverCrashes flips bytes. What opens can be read to its end;
// what does not is refused with the file's name.
func TestRandomDamageNeverCrashes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	good := sound(t)
	w, err := newWalk(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	used := int(w.high) * w.pageSize
	path := filepath.Join(t.TempDir(), "db")
	refused := 0
	for range 300 {
		data := append([]byte{}, good[:used]...)
		for range 1 + random.IntN(4) {
			// Most bytes are values: aim at the beginnings of pages too.
			at := random.IntN(used)
			if random.IntN(2) == 0 {
				at = at/4096*4096 + random.IntN(64)
			}
			data[at] ^= byte(1 << random.IntN(8))
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := readAll(path); err != nil {
			if e, ok := errors.AsType[*CorruptError](err); !ok || e.File != path {
				t.Fatalf("%v", err)
			}
			refused++
		}
	}
	if refused == 0 || refused == 300 {
		t.Errorf("%d of 300 were refused", refused)
	}
}

// TestABucketThatIsARowIsRefused: the bit that tells one from the other has turned.
func TestABucketThatIsARowIsRefused(t *testing.T) {
	data := sound(t)
	w, err := newWalk(t.Context(), data)
	if err != nil {
		t.Fatal(err)
	}
	data[int(w.root)*w.pageSize+headerBytes] ^= bucketRow
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	err = readAll(path)
	if e, ok := errors.AsType[*CorruptError](err); !ok || e.File != path {
		t.Errorf("%v", err)
	}
}

func readAll(path string) (err error) {
	f, err := Open(path, Options{NoSync: true})
	if err != nil {
		return err
	}
	defer f.Close()
	defer Catch(&err)
	if _, err := f.HashAll(); err != nil {
		return err
	}
	var b Batch
	b.Put(Key, revision(1<<30), []byte("new"))
	return f.Commit(Stamp{Index: 1 << 30}, &b)
}

func TestDamageUnderAnOpenFileIsCaught(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	f := open(t, path)
	fill(t, f, 0, 5000)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	leaf := pagesOf(t, data, leafPage)[5]
	if _, err := file.WriteAt(make([]byte, 16), int64(leaf)); err != nil {
		t.Fatal(err)
	}
	for name, read := range map[string]func() error{
		"Check": func() error { return f.Check(t.Context()) },
		"Hash":  func() error { _, err := f.Hash(); return err },
		"Scan": func() (err error) {
			defer Catch(&err)
			r, err := f.Read()
			if err != nil {
				return err
			}
			defer r.Close()
			r.Scan(Key, nil, nil, func(_, _ []byte) bool { return true })
			return nil
		},
		"Defragment": func() error { return f.Defragment(t.Context()) },
		"Commit": func() error {
			var b Batch
			for i := range 5000 {
				b.Delete(Key, revision(i))
			}
			return f.Commit(Stamp{Index: 1}, &b)
		},
	} {
		if e, ok := errors.AsType[*CorruptError](read()); !ok || e.File != path {
			t.Errorf("%s: %v", name, e)
		}
	}
}

func TestCatchLetsOtherPanicsPass(t *testing.T) {
	defer func() {
		if p := recover(); fmt.Sprint(p) != "mine" {
			t.Errorf("%v", p)
		}
	}()
	f := open(t, filepath.Join(t.TempDir(), "db"))
	fill(t, f, 0, 10)
	var err error
	defer Catch(&err)
	r, _ := f.Read()
	defer r.Close()
	r.Scan(Key, nil, nil, func(_, _ []byte) bool { panic("mine") })
}
