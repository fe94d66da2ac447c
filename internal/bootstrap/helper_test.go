package bootstrap

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kvd/internal/mvcc"
	"kvd/internal/store"
	"kvd/internal/wal"
)

const peerURL = "http://127.0.0.1:2380"

// alone are the options of a member that is its whole cluster.
func alone(dir string) Options {
	return Options{
		DataDir: dir, Name: "n1", Token: "token",
		Cluster: []Seed{{"n1", []string{peerURL}}}, Advertised: []string{peerURL},
		Store: store.Options{InitialMmapBytes: 1 << 20, Timeout: 1},
		Log:   wal.Options{SegmentBytes: 64 << 10},
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// live opens a member, writes n entries into its log and rows up to entry
// stored into its database, and closes it.
func live(t testing.TB, o Options, n int, stored uint64) {
	t.Helper()
	m, err := Open(t.Context(), o)
	must(t, err)
	for range n {
		appendEmpty(t, m.Log)
	}
	if stored > 0 {
		must(t, m.Store.Commit(store.Stamp{Index: stored, Term: 1}))
	}
	must(t, m.Close())
}

// mark makes a snapshot record in the log of a closed member.
func mark(t testing.TB, o Options, index uint64) {
	t.Helper()
	m, err := Open(t.Context(), o)
	must(t, err)
	must(t, m.Log.MarkSnapshot(wal.Snapshot{Index: index, Term: 1, ConfState: m.Machine.Members().ConfState()}))
	must(t, m.Close())
}

// put writes a row into the database of a closed member.
func put(t testing.TB, o Options, bucket store.Bucket, key, value string) {
	t.Helper()
	f, err := store.Open(o.storePath(), o.Store)
	must(t, err)
	reader, err := f.Read()
	must(t, err)
	at := reader.Stamp()
	must(t, reader.Close())
	b := &store.Batch{}
	b.Put(bucket, []byte(key), []byte(value))
	must(t, errors.Join(f.Commit(at, b), f.Close()))
}

// contents are all files below dir but for kvd's own, by name.
func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || strings.HasPrefix(name, filepath.Join("member", "kvd")) {
			return err
		}
		all[name] = ""
		if d.Type().IsRegular() {
			b, err := os.ReadFile(path)
			all[name] = string(b)
			return err
		}
		return nil
	}))
	return all
}

// differences between two directories, by name.
func differences(before, after map[string]string) (names []string) {
	for name, was := range before {
		if is, ok := after[name]; !ok || is != was {
			names = append(names, name)
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			names = append(names, "new: "+name)
		}
	}
	return names
}

// refused opens a member that cannot be opened, checks that what is in its
// directory stays as it was, and that the error has all the parts.
func refused(t *testing.T, o Options, kind error, parts ...string) {
	t.Helper()
	before := contents(t, o.DataDir)
	m, err := Open(t.Context(), o)
	if err == nil {
		m.Close()
		t.Fatal("opened")
	}
	if kind != nil && !errors.Is(err, kind) {
		t.Errorf("%v\nis no %v", err, kind)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v\nlacks %q", err, part)
		}
	}
	if d := differences(before, contents(t, o.DataDir)); len(d) > 0 {
		t.Errorf("the refusal changed %q", d)
	}
}

// logged collects the log of a test.
type logged struct{ bytes.Buffer }

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// unpack writes the data directory of testdata/restored.tar.gz, which
// etcdutl 3.7.3 snapshot restore made: member m1 at peerURL, token "restored".
// The log's file is as long as etcd makes it.
func unpack(t testing.TB, dir string) {
	t.Helper()
	file, err := os.Open(filepath.Join("testdata", "restored.tar.gz"))
	must(t, err)
	defer file.Close()
	zip, err := gzip.NewReader(file)
	must(t, err)
	for in := tar.NewReader(zip); ; {
		head, err := in.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		must(t, err)
		path := filepath.Join(dir, head.Name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		b, err := io.ReadAll(in)
		must(t, err)
		must(t, os.WriteFile(path, b, 0o600))
		if strings.HasSuffix(path, ".wal") {
			must(t, os.Truncate(path, 64_000_000))
		}
	}
}

// value reads a key from a member's machine.
func value(t testing.TB, m *Member, key string) string {
	t.Helper()
	page, err := m.Machine.View().Keys.Range(mvcc.Query{Span: mvcc.Span{Key: []byte(key)}})
	must(t, err)
	if page.Count == 0 {
		return "(none)"
	}
	return fmt.Sprintf("%q", page.KVs[0])
}
