package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// holey returns a file that is mostly free pages: revisions 9000 to 9999 live.
func holey(t *testing.T) (f *File, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "db")
	f = open(t, path)
	fill(t, f, 0, 10_000)
	var b Batch
	for i := range 9000 {
		b.Delete(Key, revision(i))
	}
	if err := f.Commit(Stamp{10_001, 2}, &b); err != nil {
		t.Fatal(err)
	}
	return f, path
}

func TestDefragmentKeepsRowsAndFreesSpace(t *testing.T) {
	f, path := holey(t)
	var took time.Duration
	f.options.OnDefragment = func(d time.Duration) { took = d }
	size, hash := f.Size(), mustHash(t, f)
	if err := f.Defragment(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f.Size() > size/3 || mustHash(t, f) != hash || took <= 0 {
		t.Errorf("size %d, then %d; hash %x, then %x; took %v", size, f.Size(), hash, mustHash(t, f), took)
	}
	fill(t, f, 20_000, 10) // the new file takes commits
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	g := open(t, path) // and is the one under the name
	r, err := g.Read()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n := count(t, r); n != 1010 {
		t.Errorf("%d rows", n)
	}
	onlyFile(t, path)
}

func onlyFile(t *testing.T, path string) {
	t.Helper()
	names, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(names) != 1 || names[0].Name() != filepath.Base(path) {
		t.Errorf("beside the file: %v, %v", names, err)
	}
}

func TestOpenReaderKeepsTheOldFile(t *testing.T) {
	f, _ := holey(t)
	r, err := f.Read()
	if err != nil {
		t.Fatal(err)
	}
	old := f.live
	if err := f.Defragment(t.Context()); err != nil {
		t.Fatal(err)
	}
	fill(t, f, 20_000, 10)
	if n := count(t, r); n != 1000 {
		t.Errorf("%d rows in the old reader", n)
	}
	if old.db.Info().Data == 0 || old.users.Load() != 1 {
		t.Errorf("the old file has %d users", old.users.Load())
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := old.db.Begin(false); err == nil {
		t.Error("the old file is still open")
	}
}

func TestReadsGoOnDuringDefragment(t *testing.T) {
	f, _ := holey(t)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				r, err := f.Read()
				if err != nil {
					t.Error(err)
					return
				}
				n := count(t, r)
				if err := r.Close(); err != nil || n != 1000 {
					t.Errorf("%d rows, %v", n, err)
					return
				}
			}
		})
	}
	for range 5 {
		if err := f.Defragment(t.Context()); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	readers.Wait()
}

func TestFailedDefragmentLeavesTheFileInService(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx    context.Context
		damage func(t *testing.T, path string)
		want   func(error) bool
	}{
		"cancelled": {
			cancelled,
			func(*testing.T, string) {},
			func(err error) bool { return errors.Is(err, context.Canceled) },
		},
		"rename": { // a directory of that name cannot be replaced
			t.Context(),
			func(t *testing.T, path string) {
				if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
					t.Fatal(err)
				}
			},
			func(err error) bool { return errors.Is(err, os.ErrExist) || errors.As(err, new(*os.LinkError)) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, path := holey(t)
			c.damage(t, path)
			if err := f.Defragment(c.ctx); !c.want(err) {
				t.Errorf("%v", err)
			}
			fill(t, f, 20_000, 10)
			r, err := f.Read()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if n := count(t, r); n != 1010 {
				t.Errorf("%d rows", n)
			}
			onlyFile(t, path)
		})
	}
}

func TestOpenRemovesLeftovers(t *testing.T) {
	f, path := holey(t)
	f.Close()
	for _, name := range []string{".tmp.1", ".tmp.abc"} {
		if err := os.WriteFile(path+name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	open(t, path)
	onlyFile(t, path)
}

func TestDefragmentOfManyRowsUsesManyTransactions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	f := open(t, path)
	fill(t, f, 0, 3*chunkRows+1)
	if err := f.Defragment(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := f.Read()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n := count(t, r); n != 3*chunkRows+1 {
		t.Errorf("%d rows", n)
	}
	if err := f.Check(t.Context()); err != nil {
		t.Error(err)
	}
}
