package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// fill commits n rows of 100 bytes to bucket key, as revisions from first on.
func fill(t testing.TB, f *File, first, n int) {
	t.Helper()
	var b Batch
	for i := first; i < first+n; i++ {
		b.Put(Key, revision(i), fmt.Appendf(nil, "%0100d", i))
	}
	if err := f.Commit(Stamp{Index: uint64(first + n), Term: 2}, &b); err != nil {
		t.Fatal(err)
	}
}

func revision(n int) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(n))
	return binary.BigEndian.AppendUint64(append(b, '_'), 0)
}

func count(t testing.TB, r Reader) (n int) {
	t.Helper()
	r.Scan(Key, nil, nil, func(key, value []byte) bool {
		if want := fmt.Sprintf("%0100d", binary.BigEndian.Uint64(key)); string(value) != want {
			t.Fatalf("%x holds %q", key, value)
		}
		n++
		return true
	})
	return n
}

func TestRowsAndStampOutliveTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	f := open(t, path)
	fill(t, f, 1, 5000)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f = open(t, path)
	r, err := f.Read()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n, at := count(t, r), r.Stamp(); n != 5000 || at != (Stamp{5001, 2}) {
		t.Errorf("%d rows, stamp %v", n, at)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestFreshFileHasEveryBucket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(path, 0, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var names []string
	err = db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, _ *bolt.Bucket) error {
			names = append(names, string(name))
			return nil
		})
	})
	want := "alarm auth authRoles authUsers cluster key lease members members_removed meta"
	if got := strings.Join(names, " "); err != nil || got != want {
		t.Errorf("buckets %s, %v", got, err)
	}
}

func TestSecondOpenSaysThatTheFileIsLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	open(t, path)
	_, err := Open(path, Options{Timeout: 60 * time.Millisecond})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
}

func TestReadOnlyFilesAreShared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	if _, err := Open(path, Options{ReadOnly: true}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	f := open(t, path)
	fill(t, f, 1, 10)
	f.Close()
	for range 2 {
		f, err := Open(path, Options{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Commit(Stamp{}); !errors.Is(err, ErrReadOnly) {
			t.Errorf("Commit: %v", err)
		}
		if err := f.Defragment(t.Context()); !errors.Is(err, ErrReadOnly) {
			t.Errorf("Defragment: %v", err)
		}
		r, err := f.Read()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if n := count(t, r); n != 10 {
			t.Errorf("%d rows", n)
		}
	}
}

func TestNothingIsCommittedAfterAFailure(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "db"))
	fill(t, f, 1, 1)
	var bad, good Batch
	bad.Put(Meta, []byte("a"), nil)
	bad.Put(Key, make([]byte, bolt.MaxKeySize+1), nil)
	err := f.Commit(Stamp{Index: 9}, &bad)
	if err == nil {
		t.Fatal("a key beyond bbolt's limit was committed")
	}
	good.Put(Meta, []byte("b"), nil)
	if again := f.Commit(Stamp{Index: 10}, &good); !errors.Is(again, err) {
		t.Errorf("the next commit: %v", again)
	}
	if again := f.Defragment(t.Context()); !errors.Is(again, err) {
		t.Errorf("the next defragmentation: %v", again)
	}
	r, err := f.Read()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if r.Stamp().Index != 2 || r.Value(Meta, []byte("a")) != nil || r.Value(Meta, []byte("b")) != nil {
		t.Error("something of a failed commit is there")
	}
}

func TestSizesAreThoseOfBbolt(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "db"))
	fill(t, f, 1, 20_000)
	var b Batch
	for i := range 15_000 {
		b.Delete(Key, revision(i))
	}
	if err := f.Commit(Stamp{Index: 1}, &b); err != nil {
		t.Fatal(err)
	}
	db := f.live.db
	stats := db.Stats()
	free := stats.FreePageN + stats.PendingPageN // what was freed counts at once
	if free < 100 || f.InUse() != f.Size()-int64(free*db.Info().PageSize) {
		t.Errorf("size %d, in use %d, %d free pages", f.Size(), f.InUse(), free)
	}
	c, err := f.Copy()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Size() != f.Size() {
		t.Errorf("size %d, copy %d", f.Size(), c.Size())
	}
}

func TestOpenReadsAreCounted(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "db"))
	if n := f.OpenReads(); n != 0 {
		t.Errorf("%d are open at the start", n)
	}
	r, err := f.Read()
	if err != nil {
		t.Fatal(err)
	}
	c, err := f.Copy()
	if err != nil {
		t.Fatal(err)
	}
	if n := f.OpenReads(); n != 2 {
		t.Errorf("%d are open, want a reader and a copy", n)
	}
	if err := errors.Join(r.Close(), c.Close()); err != nil {
		t.Fatal(err)
	}
	if n := f.OpenReads(); n != 0 {
		t.Errorf("%d are open after they were closed", n)
	}
}

func TestCommitIsTimed(t *testing.T) {
	var times []CommitTimes
	f, err := Open(filepath.Join(t.TempDir(), "db"), Options{OnCommit: func(c CommitTimes) { times = append(times, c) }})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fill(t, f, 1, 1000)
	if len(times) != 1 || times[0].Total < times[0].Spill+times[0].Write || times[0].Spill <= 0 || times[0].Write <= 0 {
		t.Errorf("%v", times)
	}
}

func TestCopyIsAStoreByItself(t *testing.T) {
	dir := t.TempDir()
	f := open(t, filepath.Join(dir, "db"))
	fill(t, f, 1, 3000)
	c, err := f.Copy()
	if err != nil {
		t.Fatal(err)
	}
	size, hash := c.Size(), mustHash(t, f)
	fill(t, f, 5000, 3000) // not in the image
	if err := f.Defragment(t.Context()); err != nil {
		t.Fatal(err)
	}
	var image bytes.Buffer
	if n, err := c.WriteTo(&image); err != nil || n != size || int64(image.Len()) != size {
		t.Fatalf("wrote %d, got %d, want %d: %v", n, image.Len(), size, err)
	}
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "image")
	if err := os.WriteFile(path, image.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	g := open(t, path)
	r, err := g.Read()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n := count(t, r); n != 3000 || r.Stamp() != (Stamp{3001, 2}) || mustHash(t, g) != hash {
		t.Errorf("%d rows, %v", n, r.Stamp())
	}
}

func mustHash(t *testing.T, f *File) uint32 {
	t.Helper()
	hash, err := f.HashAll()
	if err != nil {
		t.Fatal(err)
	}
	return hash
}

func TestHashLeavesOutWhatIsLocal(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "db"))
	fill(t, f, 1, 10)
	hash := func() (uint32, uint32) {
		short, err := f.Hash()
		if err != nil {
			t.Fatal(err)
		}
		return short, mustHash(t, f)
	}
	short, all := hash()
	var b Batch
	b.Put(Meta, []byte("storageVersion"), []byte("3.7.0"))
	if err := f.Commit(Stamp{100, 9}, &b); err != nil {
		t.Fatal(err)
	}
	short2, all2 := hash()
	if short2 != short || all2 == all {
		t.Errorf("Hash %x then %x, HashAll %x then %x", short, short2, all, all2)
	}
	fill(t, f, 50, 1)
	if short3, _ := hash(); short3 == short {
		t.Error("a row more, and the same hash")
	}
}

func TestDropCacheFreesResidentMemory(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "db"))
	for i := range 4 {
		fill(t, f, 20_000*i, 20_000)
	}
	r, err := f.Read()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	count(t, r)
	before := residentFileBytes(t)
	if err := f.DropCache(); err != nil {
		t.Fatal(err)
	}
	after := residentFileBytes(t)
	if before-after < f.Size()/2 {
		t.Errorf("%d bytes resident, then %d; the file has %d", before, after, f.Size())
	}
	if n := count(t, r); n != 80_000 {
		t.Errorf("%d rows afterwards", n)
	}
}

func residentFileBytes(t *testing.T) int64 {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(status), "RssFile:")
	var kib int64
	if _, err := fmt.Sscan(line, &kib); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

func TestCheckPassesWhileCommitsGoOn(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "db"))
	fill(t, f, 0, 20_000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		var err error
		for n := 0; ctx.Err() == nil && err == nil; n++ {
			err = f.Check(t.Context())
		}
		done <- err
	}()
	for i := range 20 {
		var b Batch
		for n := range 500 {
			b.Delete(Key, revision(1000*i+n))
		}
		fill(t, f, 20_000+1000*i, 1000)
		if err := f.Commit(Stamp{Index: 1}, &b); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := f.Check(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a check that was cancelled: %v", err)
	}
}

func TestCloseLeavesAListOfFreePagesInALargeFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	listed := func() bool {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		w, err := newWalk(t.Context(), data)
		if err != nil {
			t.Fatal(err)
		}
		return w.free != noFreelist
	}
	f := open(t, path)
	fill(t, f, 1, 100)
	if err := f.Close(); err != nil || listed() {
		t.Fatalf("a small file is closed with a list: %v (error %v)", listed(), err)
	}
	f = open(t, path)
	var large, less Batch
	for i := range listedFrom >> 20 {
		large.Put(Lease, revision(i), make([]byte, 1<<20))
		if i%2 == 0 {
			less.Delete(Lease, revision(i))
		}
	}
	for _, b := range []*Batch{&large, &less} {
		if err := f.Commit(Stamp{Index: 200, Term: 2}, b); err != nil {
			t.Fatal(err)
		}
	}
	free := f.Size() - f.InUse()
	if listed() {
		t.Error("a commit writes the list")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if !listed() {
		t.Fatal("a large file is closed without a list")
	}
	f = open(t, path) // its check refuses a list that names a page in use
	defer f.Close()
	if again := f.Size() - f.InUse(); again < free/10*9 || free < listedFrom/3 {
		t.Errorf("%d bytes are free, %d after opening again", free, again)
	}
	fill(t, f, 101, 100)
	if listed() {
		t.Error("a commit leaves a list behind that is not true any more")
	}
	r, err := f.Read()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n := count(t, r); n != 200 {
		t.Errorf("%d rows of 200", n)
	}
}
