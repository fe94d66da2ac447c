package offline

import (
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kvd/internal/bootstrap"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sample is a file of etcd 3.7.3, unpacked.
func sample(t testing.TB, name string) string {
	t.Helper()
	packed, err := os.Open(filepath.Join("..", "store", "testdata", name+".gz"))
	must(t, err)
	defer packed.Close()
	in, err := gzip.NewReader(packed)
	must(t, err)
	b, err := io.ReadAll(in)
	must(t, err)
	path := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(path, b, 0o600))
	return path
}

// snapshot is the sample with a digest, as it is saved.
func snapshot(t testing.TB) string {
	t.Helper()
	path := sample(t, "etcd-3.7.3.snapshot")
	b, err := os.ReadFile(path)
	must(t, err)
	sum := sha256.Sum256(b)
	must(t, os.WriteFile(path, append(b, sum[:]...), 0o600))
	return path
}

func TestStatusIsWhatEtcdutlSays(t *testing.T) {
	s, err := StatusOf(sample(t, "etcd-3.7.3.snapshot"), Options{})
	must(t, err)
	if want := (Status{Hash: 2807196478, Revision: 55, TotalKey: 10, TotalSize: 28672, Version: "3.7.0"}); s != want {
		t.Errorf("%+v, want %+v", s, want)
	}
}

func TestSnapshotWhoseDigestIsWrongIsRefused(t *testing.T) {
	path := snapshot(t)
	b, err := os.ReadFile(path)
	must(t, err)
	if _, err := StatusOf(path, Options{}); err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 1
	must(t, os.WriteFile(path, b, 0o600))
	if _, err := StatusOf(path, Options{}); !errors.Is(err, ErrDigest) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v", err)
	}
}

func TestFileThatIsOpenElsewhereIsRefused(t *testing.T) {
	path := sample(t, "etcd-3.7.3.db")
	file, err := os.Open(path)
	must(t, err)
	defer file.Close()
	must(t, unix.Flock(int(file.Fd()), unix.LOCK_EX))
	_, err = StatusOf(path, Options{Timeout: time.Millisecond})
	if !errors.Is(err, bootstrap.ErrHeld) || !strings.Contains(err.Error(), "offline.test") {
		t.Errorf("error %v", err)
	}
}

func TestWhatIsNoDatabaseIsNamed(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	must(t, os.WriteFile(empty, nil, 0o600))
	text := filepath.Join(dir, "text")
	must(t, os.WriteFile(text, []byte(strings.Repeat("hello ", 3000)), 0o600))
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "no such file",
		dir:                        "is not a file",
		empty:                      "is empty",
		text:                       "no bbolt file",
	} {
		if _, err := StatusOf(path, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
