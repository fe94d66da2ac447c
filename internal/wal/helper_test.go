package wal

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/vfs"
)

var (
	testID   = Identity{Member: 0xbeef, Cluster: 0xcafe}
	testConf = &raftpb.ConfState{Voters: []uint64{0xbeef}, AutoLeave: new(false)}
)

// memory returns options for a log in memory with small segments.
func memory(segmentBytes int64) (*vfs.Mem, Options) {
	m := vfs.NewMem()
	return m, Options{Files: m, SegmentBytes: segmentBytes}
}

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func hard(term, vote, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: &term, Vote: &vote, Commit: &commit}
}

func entry(term, index uint64, data string) *raftpb.Entry {
	return &raftpb.Entry{Term: &term, Index: &index, Data: []byte(data)}
}

// row makes entries first..last with short data.
func row(term, first, last uint64) (entries []*raftpb.Entry) {
	for i := first; i <= last; i++ {
		entries = append(entries, entry(term, i, fmt.Sprintf("data of %d in term %d", i, term)))
	}
	return entries
}

// content returns every entry a log has.
func content(t testing.TB, l *Log) []*raftpb.Entry {
	t.Helper()
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	if last < first {
		return nil
	}
	return must(l.Entries(first, last+1, 1<<62))(t)
}

func sameEntries(a, b []*raftpb.Entry) bool {
	return slices.EqualFunc(a, b, func(x, y *raftpb.Entry) bool { return proto.Equal(x, y) })
}

// brief tells entries as index/term pairs.
func brief(entries []*raftpb.Entry) string {
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&b, " %d/%d:%d", e.GetIndex(), e.GetTerm(), len(e.GetData()))
	}
	return "[" + strings.TrimSpace(b.String()) + "]"
}

func readFile(t testing.TB, files vfs.FS, path string) []byte {
	t.Helper()
	f := must(files.Open(path, os.O_RDONLY, 0))(t)
	b := make([]byte, must(f.Size())(t))
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	ok(t, f.Close())
	return b
}

func writeFile(t testing.TB, files vfs.FS, path string, b []byte) {
	t.Helper()
	f := must(files.Open(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600))(t)
	_ = must(f.WriteAt(b, 0))(t)
	ok(t, f.Close())
}

// used returns how many bytes of a segment hold frames.
func used(t testing.TB, files vfs.FS, path string) int64 {
	t.Helper()
	f := must(files.Open(path, os.O_RDONLY, 0))(t)
	in := must(newReader(f, path, nil))(t)
	for {
		if _, err := in.next(); err != nil {
			if !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			ok(t, f.Close())
			return in.offset
		}
	}
}

// frames returns the offsets of the frames of a segment and, last, their end.
func frames(t testing.TB, files vfs.FS, path string) (offsets []int64) {
	t.Helper()
	f := must(files.Open(path, os.O_RDONLY, 0))(t)
	in := must(newReader(f, path, nil))(t)
	for {
		offsets = append(offsets, in.offset)
		if _, err := in.next(); err != nil {
			ok(t, f.Close())
			return offsets
		}
	}
}

// unpack copies a log that etcd 3.7.3 wrote from testdata; the files there are
// compressed and cut to their used length.
func unpack(t testing.TB, name string) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "wal")
	ok(t, os.Mkdir(dir, 0o700))
	packed := must(filepath.Glob(filepath.Join("testdata", "etcd-3.7.3", name, "*.gz")))(t)
	if len(packed) == 0 {
		t.Fatalf("no test data for %s", name)
	}
	for _, path := range packed {
		in := must(os.Open(path))(t)
		b := must(io.ReadAll(must(gzip.NewReader(in))(t)))(t)
		ok(t, in.Close())
		ok(t, os.WriteFile(filepath.Join(dir, strings.TrimSuffix(filepath.Base(path), ".gz")), b, 0o600))
	}
	return dir
}
