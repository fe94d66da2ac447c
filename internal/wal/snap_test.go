package wal

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// Any change of a file of etcd's is found: all of it is under its CRC, but for
// what says how long it is.
func TestADamagedSnapFileIsFound(t *testing.T) {
	whole, err := os.ReadFile("testdata/etcd-3.7.3/0000000000000003-000000000000002e.snap")
	ok(t, err)
	path := filepath.Join(t.TempDir(), "x.snap")
	check := func(content []byte) error {
		ok(t, os.WriteFile(path, content, 0o600))
		return CheckSnap(path)
	}
	ok(t, check(whole))
	if check(nil) == nil {
		t.Error("an empty one is sound")
	}
	for cut := range whole[1:] {
		if check(whole[:cut+1]) == nil {
			t.Errorf("cut to %d bytes of %d: sound", cut+1, len(whole))
		}
	}
	for i := range whole {
		bit := byte(1) << rand.IntN(8)
		whole[i] ^= bit
		if check(whole) == nil {
			t.Errorf("byte %d is %02x: sound", i, whole[i])
		}
		whole[i] ^= bit
	}
}

func TestAnEmptySegmentIsNotDumpedInSilence(t *testing.T) {
	dir := t.TempDir()
	ok(t, os.WriteFile(filepath.Join(dir, "0000000000000000-0000000000000000.wal"), make([]byte, 4096), 0o600))
	if err := Dump(dir, func(Record) error { return nil }); err == nil {
		t.Error("a log of zeros is whole")
	}
}
