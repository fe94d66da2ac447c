package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// begin returns a rewrite that the test closes.
func begin(t *testing.T, f *File) *Rewrite {
	t.Helper()
	w, err := f.Rewrite()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// churn commits what a member may: new revisions, old ones removed, rows of other
// buckets changed, removed and made again, empty values.
func churn(t *testing.T, f *File, rng *rand.Rand, next *int) {
	t.Helper()
	var b Batch
	for range rng.IntN(40) {
		b.Put(Key, revision(*next), make([]byte, rng.IntN(300)))
		*next++
	}
	for range rng.IntN(40) {
		b.Delete(Key, revision(rng.IntN(*next+1)))
	}
	for range rng.IntN(10) {
		key := fmt.Appendf(nil, "%d", rng.IntN(50))
		bucket := []Bucket{Lease, AuthUsers, "later"}[rng.IntN(3)]
		if rng.IntN(3) == 0 {
			b.Delete(bucket, key)
		} else {
			b.Put(bucket, key, make([]byte, rng.IntN(3)))
		}
	}
	if err := f.Commit(Stamp{Index: uint64(*next), Term: uint64(2 + rng.IntN(2))}, &b); err != nil {
		t.Fatal(err)
	}
}

func TestARewriteHoldsWhatIsCommittedMeanwhile(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 5))
		path := filepath.Join(t.TempDir(), "db")
		f := open(t, path)
		next := 0
		for range rng.IntN(20) {
			churn(t, f, rng, &next)
		}
		f.options.OnRewrite = func(int64, int64) { // between two pieces
			if rng.IntN(4) == 0 {
				churn(t, f, rng, &next)
			}
		}
		w := begin(t, f)
		for range rng.IntN(4) {
			if err := errors.Join(w.Copy(t.Context()), w.Next()); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			churn(t, f, rng, &next)
		}
		if err := w.Copy(t.Context()); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		churn(t, f, rng, &next)
		f.options.OnRewrite = nil // the committer stands still
		want := mustHash(t, f)
		if err := w.Finish(t.Context()); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if got := mustHash(t, f); got != want {
			t.Fatalf("seed %d: the new file has other rows than the old one", seed)
		}
		churn(t, f, rng, &next)
		want = mustHash(t, f)
		if err := errors.Join(f.Check(t.Context()), f.Close()); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if got := mustHash(t, open(t, path)); got != want {
			t.Fatalf("seed %d: the name has another file", seed)
		}
		onlyFile(t, path)
	}
}

func TestARewriteIsSettledWhenLittleIsLeft(t *testing.T) {
	f, _ := holey(t)
	w := begin(t, f)
	if err := w.Copy(t.Context()); err != nil || !w.Settled() {
		t.Errorf("nothing was committed, and it is not settled (%v)", err)
	}
	fill(t, f, 20_000, 2*lastBytes/100)
	if w.Settled() {
		t.Error("2 MiB are left, and it is settled")
	}
	if err := errors.Join(w.Next(), w.Copy(t.Context())); err != nil || !w.Settled() {
		t.Errorf("they were copied, and it is not settled (%v)", err)
	}
}

func TestAReplacedFileIsNotRewritten(t *testing.T) {
	f, path := holey(t)
	w := begin(t, f)
	other := filepath.Join(t.TempDir(), "other")
	g := open(t, other)
	fill(t, g, 0, 5)
	if err := errors.Join(g.Close(), f.Replace(other, func(func() (Reader, error)) error { return nil })); err != nil {
		t.Fatal(err)
	}
	if err := w.Copy(t.Context()); err != nil {
		t.Error(err) // it does no harm
	}
	if err := w.Finish(t.Context()); !errors.Is(err, ErrReplaced) {
		t.Errorf("finished: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	r, err := f.Read()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n := count(t, r); n != 5 {
		t.Errorf("%d rows", n)
	}
	onlyFile(t, path)
}

func TestThereIsOneRewriteAtATime(t *testing.T) {
	f, path := holey(t)
	w := begin(t, f)
	if _, err := f.Rewrite(); !errors.Is(err, ErrRewriting) {
		t.Errorf("a second one: %v", err)
	}
	if err := errors.Join(w.Close(), w.Close()); err != nil {
		t.Error(err)
	}
	onlyFile(t, path)
	if err := f.Defragment(t.Context()); err != nil {
		t.Error(err)
	}
}

// What is given to the disk at once is what an fdatasync of the log may wait for.
func TestACopyBesideALogIsMadeInSmallPiecesAndRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, err := Open(filepath.Join(t.TempDir(), "db"), Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		const rows, each, takes = 6000, 100 + 17, 20 * time.Millisecond
		fill(t, f, 0, rows)
		var pieces, last int64
		f.options.OnRewrite = func(done, _ int64) {
			if done-last > syncBytes+each {
				t.Errorf("a piece of %d bytes", done-last)
			}
			pieces, last = pieces+1, done
			time.Sleep(takes) // no time goes by otherwise
		}
		w := begin(t, f)
		began := time.Now()
		if err := w.Copy(t.Context()); err != nil {
			t.Fatal(err)
		}
		if least := int64(rows * each / syncBytes); pieces <= least {
			t.Errorf("%d pieces, of at least %d", pieces, least)
		}
		if took, want := time.Since(began), (1+restFactor)*takes*time.Duration(pieces); took != want {
			t.Errorf("%d pieces took %v, want %v", pieces, took, want)
		}
	})
}

func TestAnOldFileIsGivenBackBitByBit(t *testing.T) {
	f, path := holey(t)
	old, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	size := func() int64 {
		s, err := old.Stat()
		if err != nil {
			t.Fatal(err)
		}
		return s.Size()
	}
	r, err := f.Read()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Defragment(t.Context()); err != nil {
		t.Fatal(err)
	}
	if size() == 0 || count(t, r) != 1000 {
		t.Error("a reader has lost its file")
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	f.shrinking.Wait()
	if n := size(); n != 0 {
		t.Errorf("%d bytes of the old file are left", n)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func TestALargeOldFileDoesNotHoldUpClose(t *testing.T) {
	f, path := holey(t)
	if err := os.Truncate(path, 1<<40); err != nil { // a hole, of 131072 bits
		t.Fatal(err)
	}
	if err := f.Defragment(t.Context()); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- f.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("it is still closing")
	}
}

func TestAnOldFileWithAnotherNameIsKept(t *testing.T) {
	f, path := holey(t)
	hash, kept := mustHash(t, f), path+".kept"
	if err := errors.Join(os.Link(path, kept), f.Defragment(t.Context())); err != nil {
		t.Fatal(err)
	}
	f.shrinking.Wait()
	if got := mustHash(t, open(t, kept)); got != hash {
		t.Error("the file under the other name has changed")
	}
}

func TestARewriteEndsWithItsContext(t *testing.T) {
	f, path := holey(t)
	ctx, cancel := context.WithCancel(t.Context())
	f.options.OnRewrite = func(int64, int64) { cancel() }
	w := begin(t, f)
	if err := w.Copy(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("copied: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	onlyFile(t, path)
}
