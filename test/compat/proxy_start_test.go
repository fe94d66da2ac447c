package compat

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/test/oracle"
)

// proxyBefore starts a proxy of a cluster that one of its members names.
func proxyBefore(t *testing.T, m *oracle.Member, o oracle.Options) *oracle.Member {
	t.Helper()
	if o.Proxy == "" {
		o.Proxy = "on"
	}
	if o.Cluster == "" {
		o.Cluster = m.Name + "=" + m.PeerURL
	}
	o.Args = append([]string{"--proxy-refresh-interval=200ms"}, o.Args...)
	return oracle.Start(t, oracle.Kvd(t), o)
}

// serves asks for a key through a server.
func serves(t *testing.T, m *oracle.Member, key, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), oracle.SettleWithin)
	defer cancel()
	r, err := pb.NewKVClient(m.Dial()).Range(ctx, &pb.RangeRequest{Key: []byte(key)})
	if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != want {
		t.Errorf("%s answers %v, %v, want %s", m.Name, r, err, want)
	}
}

func mustWrite(t *testing.T, m *oracle.Member, key, value string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), oracle.SettleWithin)
	defer cancel()
	if _, err := pb.NewKVClient(m.Dial()).Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value)}); err != nil {
		t.Fatal(err)
	}
}

// learned waits for a proxy's state file and returns the peer URLs in it.
func learned(t *testing.T, dir string, done func(urls []string) bool) []string {
	t.Helper()
	var state struct{ PeerURLs []string }
	for end := time.Now().Add(oracle.SettleWithin); ; time.Sleep(10 * time.Millisecond) {
		data, err := os.ReadFile(filepath.Join(dir, "proxy", "cluster"))
		if err == nil {
			if err := json.Unmarshal(data, &state); err != nil {
				t.Fatalf("the state file is half written: %v: %q", err, data)
			}
			if done(state.PeerURLs) {
				return state.PeerURLs
			}
		}
		if time.Now().After(end) {
			t.Fatalf("the state file tells of %q (%v)", state.PeerURLs, err)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestTheDataDirectoryDecidesWhetherItIsAProxy(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, oracle.Kvd(t), oracle.Options{})
	mustWrite(t, m, "k", "v")
	dir := filepath.Join(t.TempDir(), "data")

	p := proxyBefore(t, m, oracle.Options{Name: "empty", DataDir: dir})
	serves(t, p, "k", "v")
	if urls := learned(t, dir, func(urls []string) bool { return len(urls) > 0 }); !slices.Equal(urls, []string{m.PeerURL}) {
		t.Errorf("the state file tells of %q", urls)
	}
	if exists(filepath.Join(dir, "member")) {
		t.Error("a proxy has made a member's directory")
	}
	p.Stop()

	// What is a proxy stays one, whatever the option says, and need not advertise.
	p = oracle.Launch(t, oracle.Kvd(t), oracle.Options{
		Name: "off", DataDir: dir, Proxy: "off", Cluster: p.Cluster,
	})
	if err := p.Ready(oracle.ReadyWithin); err != nil {
		t.Fatal(err)
	}
	serves(t, p, "k", "v")
	p.Stop()

	// And so does what is a member.
	m.Stop()
	m.Args = append(m.Args, "--proxy=on")
	m.Restart()
	serves(t, m, "k", "v")
	if !strings.Contains(m.Log(), "the option proxy has no effect") {
		t.Error("nothing is said of the option that has no effect")
	}
	m.Stop()

	if err := os.Mkdir(filepath.Join(m.DataDir, "proxy"), 0o700); err != nil {
		t.Fatal(err)
	}
	m.Relaunch()
	exit, err := m.Wait(oracle.ReadyWithin)
	if err != nil || exit.ExitCode() != 78 || !strings.Contains(m.Log(), "both member and proxy directories exist") {
		t.Errorf("a directory of both kinds: %v, %v\n%s", exit, err, m.Log())
	}
	for _, path := range []string{"member", "proxy"} {
		if !exists(filepath.Join(m.DataDir, path)) {
			t.Errorf("the refusal has removed %s", path)
		}
	}
}

func TestABrokenStateFileIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "proxy"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "proxy", "cluster"), []byte(`{"PeerURLs":[`), 0o600); err != nil {
		t.Fatal(err)
	}
	p := oracle.Launch(t, oracle.Kvd(t), oracle.Options{DataDir: dir, Proxy: "on", Cluster: "m=http://127.0.0.1:1"})
	exit, err := p.Wait(oracle.ReadyWithin)
	if err != nil || exit.ExitCode() != 78 || !strings.Contains(p.Log(), filepath.Join(dir, "proxy", "cluster")) || !strings.Contains(p.Log(), "remove the file") {
		t.Errorf("%v, %v\n%s", exit, err, p.Log())
	}
}

func TestADirectoryIsOfAProxyByItsTOML(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, oracle.Kvd(t), oracle.Options{})
	mustWrite(t, m, "k", "v")
	file := filepath.Join(t.TempDir(), "kvd.toml")
	address := "http://" + oracle.FreeAddress(t)
	text := "data-dir = \"" + filepath.Join(t.TempDir(), "data") + "\"\nproxy = \"readonly\"\ninitial-cluster = \"m1=" + m.PeerURL + "\"\nlisten-client-urls = [\"" + address + "\"]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := oracle.Start(t, oracle.Kvd(t), oracle.Options{Proxy: oracle.ByFile, ClientURL: address, Args: []string{"--config-file", file}})
	serves(t, p, "k", "v")
}

func TestAFullDiscoveryMakesAProxyOrEnds(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, oracle.Etcd(t), "1")
	first := discovering(t, r, "m1")
	m := oracle.Start(t, oracle.Kvd(t), first)
	mustWrite(t, m, "k", "v")

	late := discovering(t, r, "m2", "--discovery-fallback=exit")
	refused := oracle.Launch(t, oracle.Kvd(t), late)
	exit, err := refused.Wait(oracle.ReadyWithin)
	if err != nil || exit.ExitCode() != 78 || !strings.Contains(refused.Log(), "cluster is full") {
		t.Errorf("with exit: %v, %v\n%s", exit, err, refused.Log())
	}

	// The default is to become a proxy, which finds the members by what discovery says.
	p := oracle.Launch(t, oracle.Kvd(t), discovering(t, r, "m3"))
	if err := settles(t, func() error { return isReady(p) }); err != nil {
		t.Fatalf("%v\n%s", err, p.Log())
	}
	serves(t, p, "k", "v")
	learned(t, p.DataDir, func(urls []string) bool { return slices.Equal(urls, []string{m.PeerURL}) })
	if exists(filepath.Join(p.DataDir, "member")) {
		t.Error("a member's directory is left behind")
	}
	if rows := r.registered(t, 1); len(rows) != 1 {
		t.Errorf("the proxy has registered: %q", rows)
	}

	// From then on it is one, and discovery is not asked.
	p.Kill()
	r.Kill()
	p.Relaunch()
	if err := settles(t, func() error { return isReady(p) }); err != nil {
		t.Fatalf("%v\n%s", err, p.Log())
	}
	serves(t, p, "k", "v")
}

// Whoever is a proxy by its option only reads what has been registered.
func TestAProxyObservesDiscovery(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, oracle.Etcd(t), "1")
	o := discovering(t, r, "p")
	p := oracle.Launch(t, oracle.Kvd(t), oracle.Options{Proxy: "on", Args: o.Args})
	m := oracle.Start(t, oracle.Kvd(t), discovering(t, r, "m1"))
	mustWrite(t, m, "k", "v")
	if err := settles(t, func() error { return isReady(p) }); err != nil {
		t.Fatal(err)
	}
	serves(t, p, "k", "v")
	if rows := r.registered(t, 1); len(rows) != 1 || !strings.Contains(rows[0], "m1=") {
		t.Errorf("registered are %q", rows)
	}
}

func settles(t *testing.T, try func() error) (err error) {
	t.Helper()
	for end := time.Now().Add(2 * oracle.SettleWithin); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = try(); err == nil {
			return nil
		}
	}
	return err
}

// isReady asks for the page alone: a proxy's versions are not told.
func isReady(m *oracle.Member) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	status, body, err := m.Get(ctx, "/readyz")
	if err == nil && status != 200 {
		err = errors.New(body)
	}
	return err
}

// What the state file says is used with what is configured: either may be stale.
func TestAProxyWhoseClusterMovedFindsIt(t *testing.T) {
	t.Parallel()
	m := oracle.Start(t, oracle.Kvd(t), oracle.Options{})
	mustWrite(t, m, "k", "v")
	gone := "http://" + oracle.FreeAddress(t)
	for _, c := range []struct{ name, state, configured string }{
		{"the file is stale", gone, m.PeerURL},
		{"the configured cluster is stale", m.PeerURL, gone},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "proxy"), 0o700); err != nil {
				t.Fatal(err)
			}
			state := []byte(`{"PeerURLs":["` + c.state + `"]}`)
			if err := os.WriteFile(filepath.Join(dir, "proxy", "cluster"), state, 0o600); err != nil {
				t.Fatal(err)
			}
			p := proxyBefore(t, m, oracle.Options{DataDir: dir, Cluster: "x=" + c.configured})
			serves(t, p, "k", "v")
			learned(t, dir, func(urls []string) bool { return slices.Equal(urls, []string{m.PeerURL}) })
		})
	}
}
