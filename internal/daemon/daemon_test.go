package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kvd/internal/vfs"
)

func TestTwoMembersShareOneProcess(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir()}
	var both []*instance
	for _, dir := range dirs {
		both = append(both, start(t, flags(dir)...))
	}
	for i, d := range both {
		must(t, put(t, d.dial(t), "k", dirs[i]))
	}
	for i, d := range both {
		if got := get(t, d.dial(t), "k"); got != dirs[i] {
			t.Errorf("member %d has %q, want its own %q", i, got, dirs[i])
		}
		_, _, metrics := ask(t, d.url(t, "listen-metrics-urls")+"/metrics")
		if !strings.Contains(metrics, "etcd_server_has_leader 1") || !strings.Contains(metrics, `version="1.2.3"`) {
			t.Errorf("metrics of member %d:\n%s", i, metrics)
		}
	}
	must(t, both[0].stop(t))
	if got := get(t, both[1].dial(t), "k"); got != dirs[1] {
		t.Errorf("after the other stopped: %q", got)
	}
	again := start(t, flags(dirs[0])...)
	if got := get(t, again.dial(t), "k"); got != dirs[0] {
		t.Errorf("after a restart: %q", got)
	}
	again.log.wait(t, "restarting local member", 0)
}

func TestAStartIsLoggedInEtcdsWords(t *testing.T) {
	d := start(t, flags(t.TempDir())...)
	d.log.wait(t, "set initial cluster version", 0) // whether before it is ready, or behind that
	must(t, d.stop(t))
	at := -1
	for _, message := range []string{
		"starting local member", "now serving peer/client/metrics", "published local member to cluster through raft",
		"ready to serve client requests",
		"serving client traffic insecurely; this is strongly discouraged!", "stopping", "stopped",
	} {
		i := slices.IndexFunc(d.log.all, func(r slog.Record) bool { return r.Message == message })
		if i <= at {
			t.Errorf("%q is at %d, after one at %d", message, i, at)
		}
		at = i
	}
	for _, r := range d.log.all {
		keys := map[string]bool{}
		r.Attrs(func(a slog.Attr) bool {
			if keys[a.Key] {
				t.Errorf("%s: %s twice", r.Message, a.Key)
			}
			keys[a.Key] = true
			return true
		})
	}
}

func TestHTTPIsServedAsConfigured(t *testing.T) {
	d := start(t, flags(t.TempDir(), "--host-whitelist=127.0.0.1", "--cors=http://page.example:8080")...)
	base := "http://" + d.client(t)
	for path, want := range map[string]int{
		"/version": 200, "/health": 200, "/livez": 200, "/readyz": 200, "/metrics": 200, "/kvd/version": 200,
		"/debug/pprof/": 404, "/nothing": 404,
		"/v3/kv/range": 501, "/v3beta/kv/range": 501, // as etcd refuses a GET
	} {
		if got, _, body := ask(t, base+path); got != want {
			t.Errorf("%s: %d, want %d: %s", path, got, want, body)
		}
	}
	if got, _, _ := ask(t, base+"/version", func(r *http.Request) { r.Host = "evil.example" }); got != http.StatusMisdirectedRequest {
		t.Errorf("another host: %d", got)
	}
	_, head, _ := ask(t, base+"/version", func(r *http.Request) { r.Header.Set("Origin", "http://page.example:8080") })
	if got := head.Get("Access-Control-Allow-Origin"); got != "http://page.example:8080" {
		t.Errorf("the page may not read: %q", got)
	}
	_, _, body := ask(t, base+"/version")
	if body != `{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}` {
		t.Error(body)
	}
	_, _, body = ask(t, d.url(t, "listen-peer-urls")+"/members")
	if !strings.Contains(body, `"name":"n1"`) {
		t.Error(body)
	}
}

func TestProfilesAreServedWhereAskedFor(t *testing.T) {
	for _, flag := range []string{"--enable-pprof", "--log-level=debug"} {
		d := start(t, flags(t.TempDir(), flag)...)
		if got, _, _ := ask(t, "http://"+d.client(t)+"/debug/pprof/"); got != http.StatusOK {
			t.Errorf("%s: %d", flag, got)
		}
		must(t, d.stop(t))
	}
}

func TestHTTPMayHavePortsOfItsOwn(t *testing.T) {
	d := start(t, flags(t.TempDir(), "--listen-client-http-urls=http://127.0.0.1:0")...)
	must(t, put(t, d.dial(t), "k", "v"))
	web := field(d.log.wait(t, "serving client traffic insecurely; this is strongly discouraged!", 1), "address")
	if got, _, _ := ask(t, "http://"+web+"/version"); got != http.StatusOK {
		t.Errorf("its own port: %d", got)
	}
	if r, err := http.Get("http://" + d.client(t) + "/version"); err == nil {
		r.Body.Close()
		t.Errorf("the gRPC port answers HTTP/1 with %d", r.StatusCode)
	}
}

// held keeps the database of a member locked, as another server would.
func held(t *testing.T, dir string) (release func()) {
	t.Helper()
	db, err := os.OpenFile(filepath.Join(dir, "member", "snap", "db"), os.O_RDWR, 0)
	must(t, err)
	must(t, unix.Flock(int(db.Fd()), unix.LOCK_EX))
	t.Cleanup(func() { db.Close() })
	return func() { db.Close() }
}

func TestMetricsAreServedBeforeTheMemberIsOpen(t *testing.T) {
	dir := t.TempDir()
	must(t, start(t, flags(dir)...).stop(t))
	release := held(t, dir)
	port := filepath.Join(t.TempDir(), "metrics")
	d := run(t, Inputs{Config: configured(t, flags(dir, "--listen-metrics-urls=unix://"+port)...)})
	web := &http.Client{Transport: &http.Transport{DialContext: dialSocket(port), DisableKeepAlives: true}}
	readyz := func() (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://m/readyz", nil)
		must(t, err)
		status, _, body := tell(t, web, r)
		return status, body
	}
	waitFor(t, func() bool {
		conn, err := net.Dial("unix", port)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	waitFor(t, func() bool {
		status, body := readyz()
		return status == http.StatusServiceUnavailable && strings.Contains(body, "not open yet: opening the database")
	})
	release()
	d.ready(t)
	if status, body := readyz(); status != http.StatusOK {
		t.Errorf("%d: %s", status, body)
	}
}

func TestAStopDuringTheStartIsNoFailure(t *testing.T) {
	dir := t.TempDir()
	must(t, start(t, flags(dir)...).stop(t))
	held(t, dir)
	manager, notifier := newManager(t)
	d := run(t, Inputs{Config: configured(t, flags(dir)...), Notifier: notifier})
	manager.expect(t, "STATUS=opening the database", "")
	manager.expect(t, "EXTEND_TIMEOUT_USEC=", "")
	began := time.Now()
	must(t, d.stop(t))
	if took := time.Since(began); took > openGrace+5*time.Second {
		t.Errorf("it took %v", took)
	}
	manager.expect(t, "STOPPING=1", "")
	if manager.position("READY=1") >= 0 {
		t.Error("it said that it was ready")
	}
}

func TestTheServiceManagerIsToldInOrder(t *testing.T) {
	manager, notifier := newManager(t)
	d := run(t, Inputs{Config: configured(t, flags(t.TempDir())...), Notifier: notifier})
	ready := manager.expect(t, "READY=1", "STATUS=leader, term 2, 1 of 1 members up, ")
	if !strings.Contains(ready, " of 2 GiB in use, revision 1") {
		t.Error(ready)
	}
	for _, part := range []string{"STATUS=opening the ports", "STATUS=opening the database", "EXTEND_TIMEOUT_USEC="} {
		if manager.position(part) < 0 {
			t.Errorf("nothing of %q in %q", part, manager.heard)
		}
	}
	must(t, put(t, d.dial(t), "k", "v"))
	manager.expect(t, "STATUS=leader", "revision 2") // without being asked
	d.reload <- Reread{Config: configured(t, flags("elsewhere", "--log-level=warn")...)}
	manager.expect(t, "RELOADING=1\nMONOTONIC_USEC=", "")
	manager.expect(t, "READY=1", "STATUS=leader")
	must(t, d.stop(t))
	manager.expect(t, "STOPPING=1", "")
	manager.expect(t, "STATUS=stopping: replica", "")
	manager.expect(t, "STATUS=stopping: closing log and database", "")
}

func TestAReloadTakesOverTheLevelAndNamesTheRest(t *testing.T) {
	dir := t.TempDir()
	d := start(t, flags(dir)...)
	for i, change := range []struct {
		more    []string
		changed string
		later   string
	}{
		{[]string{"--log-level=debug", "--max-txn-ops=7"}, "[log-level]", "[max-txn-ops]"},
		{[]string{"--log-level=debug", "--max-txn-ops=7"}, "[]", "[max-txn-ops]"}, // still waits for a restart
		{[]string{"--max-txn-ops=7"}, "[log-level]", "[max-txn-ops]"},
	} {
		d.reload <- Reread{Config: configured(t, flags(dir, change.more...)...)}
		rec := d.log.wait(t, "reloaded the configuration", i)
		later := d.log.wait(t, "some changes need a restart", i)
		if got := field(rec, "changed"); got != change.changed {
			t.Errorf("%d: changed %s, want %s", i, got, change.changed)
		}
		if got := field(later, "options"); got != change.later {
			t.Errorf("%d: later %s, want %s", i, got, change.later)
		}
	}
	for i, again := range []Reread{
		{Err: errors.New("line 3: no such option")},
	} {
		d.reload <- again
		d.log.wait(t, "the configuration was not reloaded, the old one stays in force", i)
		if got := d.level.Level().String(); got != "INFO" {
			t.Errorf("%d: the level is %s", i, got)
		}
	}
}

// brittle is a file system whose fsync can be made to fail.
type brittle struct {
	vfs.OS
	broken *atomic.Bool
}

func (b brittle) Open(name string, flag int, perm os.FileMode) (vfs.File, error) {
	f, err := b.OS.Open(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return brittleFile{f, b.broken, name}, nil
}

type brittleFile struct {
	vfs.File
	broken *atomic.Bool
	name   string
}

func (f brittleFile) Datasync() error {
	if f.broken.Load() {
		return &os.PathError{Op: "fdatasync", Path: f.name, Err: unix.EIO}
	}
	return f.File.Datasync()
}

func TestAFailedSyncEndsItWithoutAnAcknowledgement(t *testing.T) {
	dir := t.TempDir()
	broken := &atomic.Bool{}
	manager, notifier := newManager(t)
	d := run(t, Inputs{Config: configured(t, flags(dir)...), Files: brittle{broken: broken}, Notifier: notifier})
	d.ready(t)
	c := d.dial(t)
	must(t, put(t, c, "before", "v"))
	acknowledged := make(chan error, 8)
	broken.Store(true)
	for range cap(acknowledged) {
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_, err := c.Put(ctx, "after", "v")
			acknowledged <- err
		}()
	}
	err := d.wait(t)
	if !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), ".wal") || !strings.Contains(err.Error(), "the disk failed") {
		t.Errorf("%v", err)
	}
	for range cap(acknowledged) {
		if err := <-acknowledged; err == nil {
			t.Error("a put was acknowledged that is not on disk")
		}
	}
	manager.expect(t, "STATUS=failed: ", "fdatasync")
	if manager.position("STOPPING=1") >= 0 {
		t.Error("it took leave as if nothing had happened")
	}
}

func TestAStopThatCannotWriteIsAFailure(t *testing.T) {
	broken := &atomic.Bool{}
	d := run(t, Inputs{Config: configured(t, flags(t.TempDir())...), Files: brittle{broken: broken}})
	d.ready(t)
	must(t, put(t, d.dial(t), "k", "v"))
	broken.Store(true) // the log has a commit index left to write
	if err := d.stop(t); !errors.Is(err, unix.EIO) {
		t.Errorf("%v", err)
	}
}

// TestForceNewClusterFreesAMember: the others of its cluster never come.
func TestForceNewClusterFreesAMember(t *testing.T) {
	dir := t.TempDir()
	trio := "--initial-cluster=n1=http://127.0.0.1:2,n2=http://127.0.0.1:3,n3=http://127.0.0.1:4"
	d := run(t, Inputs{Config: configured(t, flags(dir, trio)...)})
	d.log.wait(t, "now serving peer/client/metrics", 0)
	must(t, d.stop(t))
	for range 2 { // the option may stay
		d = start(t, flags(dir, trio, "--force-new-cluster")...)
		c := d.dial(t)
		must(t, put(t, c, "k", "v"))
		list, err := c.MemberList(t.Context())
		must(t, err)
		if len(list.Members) != 1 || list.Members[0].PeerURLs[0] != "http://127.0.0.1:2" || list.Members[0].Name != "n1" {
			t.Errorf("members %v", list.Members)
		}
		must(t, d.stop(t))
	}
	d = start(t, flags(dir)...)
	if got := get(t, d.dial(t), "k"); got != "v" {
		t.Errorf("k is %q", got)
	}
}

func TestWhatCannotBeHonouredIsAConfigurationError(t *testing.T) {
	for _, c := range []struct {
		args []string
		part string
	}{
		{[]string{"--auth-token=jwt,sign-method=HS256"}, "auth: missing key data"},
		{[]string{"--initial-cluster=n1=http://127.0.0.1:3"}, "--initial-cluster has n1=http://127.0.0.1:3 but missing from"},
		{[]string{"--initial-cluster=n2=http://127.0.0.1:2"}, `couldn't find local name "n1"`},
	} {
		dir := filepath.Join(t.TempDir(), "data")
		err := run(t, Inputs{Config: configured(t, flags(dir, c.args...)...)}).wait(t)
		var refused *ConfigError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), c.part) {
			t.Errorf("%q: %v", c.args, err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q: something was written: %v", c.args, err)
		}
	}
}
