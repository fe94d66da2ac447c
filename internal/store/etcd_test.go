package store

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Written by etcd 3.7.3: the file of a member that was stopped, and the image
// that etcdctl saved shortly before. testdata/README.md tells how.
const (
	etcdFile     = "testdata/etcd-3.7.3.db.gz"
	etcdSnapshot = "testdata/etcd-3.7.3.snapshot.gz"

	etcdHash    = 3614821897 // as the running etcd reported it
	etcdHashAll = 2807196478 // as etcdutl snapshot status reported it
)

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

func TestFileOfEtcdHashesAsEtcdSays(t *testing.T) {
	f := open(t, unpack(t, etcdFile))
	if hash, err := f.Hash(); err != nil || hash != etcdHash {
		t.Errorf("Hash %d, %v", hash, err)
	}
	f = open(t, unpack(t, etcdSnapshot))
	if hash, err := f.HashAll(); err != nil || hash != etcdHashAll {
		t.Errorf("HashAll %d, %v", hash, err)
	}
}

func TestFileOfEtcdIsReadAndNotTouched(t *testing.T) {
	path := unpack(t, etcdFile)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f := open(t, path)
	r, err := f.Read()
	if err != nil {
		t.Fatal(err)
	}
	if at := r.Stamp(); at.Index < 70 || at.Term != 2 {
		t.Errorf("stamp %v", at)
	}
	rows := map[Bucket]int{}
	for _, bucket := range buckets {
		r.Scan(bucket, nil, nil, func([]byte, []byte) bool {
			rows[bucket]++
			return true
		})
	}
	if rows[Key] < 20 || rows[Lease] != 4 || rows[Alarm] != 1 || rows[Members] != 2 || rows[MembersRemoved] != 1 || rows[Cluster] != 2 {
		t.Errorf("rows %v", rows)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("to open, read and close it changed it: %v", err)
	}
}

func TestDefragmentedFileOfEtcdHashesTheSame(t *testing.T) {
	f := open(t, unpack(t, etcdFile))
	if err := f.Defragment(t.Context()); err != nil {
		t.Fatal(err)
	}
	if hash, err := f.Hash(); err != nil || hash != etcdHash {
		t.Errorf("Hash %d, %v", hash, err)
	}
}

// TestEtcdutlReadsOurFiles needs etcdutl 3.7.3, named by KVD_TEST_ETCDUTL.
func TestEtcdutlReadsOurFiles(t *testing.T) {
	etcdutl := os.Getenv("KVD_TEST_ETCDUTL")
	if etcdutl == "" {
		t.Skip("KVD_TEST_ETCDUTL names no etcdutl")
	}
	dir := t.TempDir()
	f := open(t, filepath.Join(dir, "db"))
	var b Batch
	b.Put(Meta, []byte("storageVersion"), []byte("3.7.0"))
	b.Put(Key, revision(2), []byte("\x0a\x03foo\x10\x02\x18\x02\x20\x01\x2a\x03bar"))
	b.Put(Key, revision(3), []byte("\x0a\x03baz\x10\x03\x18\x03\x20\x01\x2a\x03bar"))
	if err := f.Commit(Stamp{7, 2}, &b); err != nil {
		t.Fatal(err)
	}
	for name, prepare := range map[string]func() error{
		"committed":    func() error { return nil },
		"defragmented": func() error { return f.Defragment(t.Context()) },
	} {
		if err := prepare(); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		size := save(t, f, path)
		out, err := exec.CommandContext(t.Context(), etcdutl, "snapshot", "status", path, "-w", "json").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var status struct {
			Hash      uint32
			Revision  int64
			TotalKey  int
			TotalSize int64
			Version   string
		}
		if err := json.Unmarshal(out, &status); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if status.Hash != mustHash(t, f) || status.Revision != 3 || status.TotalKey != 2 || status.TotalSize != size || status.Version != "3.7.0" {
			t.Errorf("%s: %s; our hash is %d, our size %d", name, out, mustHash(t, f), size)
		}
	}
}

// save writes an image of f.
func save(t *testing.T, f *File, path string) (size int64) {
	t.Helper()
	c, err := f.Copy()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := c.WriteTo(w); err != nil {
		t.Fatal(err)
	}
	return c.Size()
}
