package wal

import (
	"os"
	"path/filepath"
	"testing"
)

func TestADamagedLogStillNamesItsMember(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "wal")
	want := Identity{Member: 7, Cluster: 9}
	l, err := Create(dir, want, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	// Another segment, out of place and of no use.
	if err := os.WriteFile(filepath.Join(dir, segmentName(0, 0)), []byte("not a log at all"), 0o600); err != nil {
		t.Fatal(err)
	}
	spare := filepath.Join(dir, segmentName(5, 77))
	if err := os.WriteFile(spare, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := IdentityOf(dir); err == nil {
		t.Fatal("garbage names a member")
	}
	l, err = Create(filepath.Join(t.TempDir(), "wal"), want, Options{})
	if err != nil {
		t.Fatal(err)
	}
	whole := l.dir
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(whole, segmentName(0, 0)))
	if err != nil {
		t.Fatal(err)
	}
	for i := 1024; i < len(data) && i < 4096; i++ {
		data[i] = 0xff
	}
	if err := os.WriteFile(spare, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if id, err := IdentityOf(dir); err != nil || id != want {
		t.Errorf("got %+v, %v", id, err)
	}
	if _, err := IdentityOf(filepath.Join(dir, "nowhere")); err == nil {
		t.Error("a directory that is not there names a member")
	}
}
