package oracle

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// A Binary is a program that the tests run.
type Binary struct {
	Name string // etcd, kvd, …
	Path string

	// Through is a kvd whose proxy stands between clients and the server that
	// this is; none, or kvd's own where KVD_TEST_PROXY is set and the server is
	// not etcd. The proxy listens at the ClientURL and is given the flags of the
	// server, too.
	Through string
}

// Etcd is the server that judges.
func Etcd(t testing.TB) Binary { return tool(t, "etcd", "go.etcd.io/etcd/server/v3") }

// Etcdctl is etcd's own client.
func Etcdctl(t testing.TB) Binary { return tool(t, "etcdctl", "go.etcd.io/etcd/etcdctl/v3") }

// Etcdutl is etcd's tool for data directories and snapshots.
func Etcdutl(t testing.TB) Binary { return tool(t, "etcdutl", "go.etcd.io/etcd/etcdutl/v3") }

// Kvd is the server that is judged, built from the module above this one.
func Kvd(t testing.TB) Binary { return ours(t, "kvd") }

// Kvctl is kvd's client, built from the module above this one.
func Kvctl(t testing.TB) Binary { return ours(t, "kvctl") }

// built remembers what this process has built already; ours change between
// test runs, so each process builds them once and Go's cache makes it short.
var built = struct {
	sync.Mutex
	path map[string]string
	err  map[string]error // a build that failed is not tried again
}{path: map[string]string{}, err: map[string]error{}}

// tool returns a program of etcd's, built from the module proxy once for all
// test processes. KVD_TEST_<NAME> names one that is built already.
func tool(t testing.TB, name, pkg string) Binary {
	t.Helper()
	return build(t, name, func(dir, cache string) (string, error) {
		path := filepath.Join(cache, name+"-"+Version)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		return path, compile(dir, path, pkg)
	})
}

// ours returns a program of kvd's, built anew in each test process.
func ours(t testing.TB, name string) Binary {
	t.Helper()
	return build(t, name, func(dir, cache string) (string, error) {
		path := filepath.Join(cache, name)
		return path, compile(filepath.Dir(dir), path, "kvd/cmd/"+name)
	})
}

// build finds or makes a program under the lock that all test processes share.
func build(t testing.TB, name string, make func(dir, cache string) (string, error)) Binary {
	t.Helper()
	if path := os.Getenv(override(name)); path != "" {
		return Binary{Name: name, Path: path}
	}
	built.Lock()
	defer built.Unlock()
	if path, ok := built.path[name]; ok {
		return Binary{Name: name, Path: path}
	}
	if err := built.err[name]; err != nil {
		t.Fatalf("build %s: %v", name, err)
	}
	dir, err := root()
	if err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(dir, ".cache", "bin")
	unlock, err := lock(cache)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	path, err := make(dir, cache)
	if err != nil {
		built.err[name] = err
		t.Fatalf("build %s: %v", name, err)
	}
	built.path[name] = path
	return Binary{Name: name, Path: path}
}

// override is the variable that names a program built elsewhere.
func override(name string) string {
	switch name {
	case "etcd":
		return "KVD_TEST_ETCD"
	case "etcdctl":
		return "KVD_TEST_ETCDCTL"
	case "etcdutl":
		return "KVD_TEST_ETCDUTL"
	case "kvctl":
		return "KVD_TEST_KVCTL"
	default:
		return "KVD_TEST_KVD"
	}
}

// lock takes the lock of the cache, among all processes of this machine.
func lock(cache string) (unlock func(), err error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(cache, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}

// compile builds pkg in the module at dir. The result appears by rename, so a
// running copy of the one before is not disturbed.
func compile(dir, path, pkg string) error {
	fresh := path + ".new"
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", fresh, pkg)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	return os.Rename(fresh, path)
}
