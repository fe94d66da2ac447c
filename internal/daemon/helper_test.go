package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"kvd/internal/config"
	"kvd/internal/sd"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// configured is a configuration of flags alone.
func configured(t testing.TB, args ...string) *config.Config {
	t.Helper()
	c, err := config.Load(args, nil, func(string) ([]byte, error) { return nil, os.ErrNotExist })
	must(t, err)
	return c
}

// flags of a member on ports that the kernel chooses.
func flags(dir string, more ...string) []string {
	return append([]string{
		"--name=n1", "--data-dir=" + dir,
		"--listen-client-urls=http://127.0.0.1:0", "--advertise-client-urls=http://127.0.0.1:1",
		"--listen-peer-urls=http://127.0.0.1:0", "--initial-advertise-peer-urls=http://127.0.0.1:2",
		"--listen-metrics-urls=http://127.0.0.1:0",
	}, more...)
}

// records keeps what was logged, for waiting.
type records struct {
	mu    sync.Mutex
	all   []slog.Record
	grown chan struct{} // closed and replaced with each record
}

func newRecords() *records { return &records{grown: make(chan struct{})} }

func (r *records) Enabled(context.Context, slog.Level) bool { return true }
func (r *records) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *records) WithGroup(string) slog.Handler            { return r }

func (r *records) Handle(_ context.Context, rec slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, rec)
	close(r.grown)
	r.grown = make(chan struct{})
	return nil
}

// find returns the n-th record (from 0) with a message, if it is there yet.
func (r *records) find(message string, n int) (slog.Record, bool, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range r.all {
		if rec.Message == message {
			if n == 0 {
				return rec, true, nil
			}
			n--
		}
	}
	return slog.Record{}, false, r.grown
}

// wait waits for the n-th record with a message.
func (r *records) wait(t testing.TB, message string, n int) slog.Record {
	t.Helper()
	limit := time.After(patience)
	for {
		rec, ok, grown := r.find(message, n)
		if ok {
			return rec
		}
		select {
		case <-grown:
		case <-limit:
			t.Fatalf("never logged: %s\n%s", message, r)
		}
	}
}

func (r *records) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	h := newLines(&b, slog.LevelDebug)
	for _, rec := range r.all {
		h.Handle(context.Background(), rec)
	}
	return b.String()
}

// field is a record's attribute as text.
func field(rec slog.Record, key string) string {
	text := ""
	rec.Attrs(func(a slog.Attr) bool {
		if a.Key == key {
			text = a.Value.String()
		}
		return true
	})
	return text
}

// instance is a daemon that runs in the test's process.
type instance struct {
	log    *records
	reload chan Reread
	level  *Logger
	config *config.Config
	cancel context.CancelFunc
	ended  chan struct{}
	err    error // of Run; readable after ended
}

func run(t testing.TB, in Inputs) *instance {
	t.Helper()
	d := &instance{log: newRecords(), reload: make(chan Reread, 1), ended: make(chan struct{})}
	d.level = &Logger{Logger: slog.New(d.log), level: &slog.LevelVar{}}
	in.Log, in.Reload = d.level, d.reload
	d.config = in.Config
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	go func() {
		defer close(d.ended)
		d.err = Run(ctx, in)
	}()
	t.Cleanup(func() {
		cancel()
		<-d.ended
		if t.Failed() {
			t.Logf("its log:\n%s", d.log)
		}
	})
	return d
}

// start runs a daemon and waits until it is ready.
func start(t testing.TB, args ...string) *instance {
	t.Helper()
	d := run(t, Inputs{Config: configured(t, args...), Version: "1.2.3"})
	d.ready(t)
	return d
}

func (d *instance) ready(t testing.TB) {
	t.Helper()
	d.log.wait(t, "ready to serve client requests", 0)
}

// stop ends the daemon and returns what Run did.
func (d *instance) stop(t testing.TB) error {
	t.Helper()
	d.cancel()
	return d.wait(t)
}

func (d *instance) wait(t testing.TB) error {
	t.Helper()
	select {
	case <-d.ended:
		return d.err
	case <-time.After(patience):
		t.Fatalf("it does not end\n%s", d.log)
		return nil
	}
}

// client is the address that clients reach it at.
func (d *instance) client(t testing.TB) string {
	t.Helper()
	return field(d.log.wait(t, "ready to serve client requests", 0), "address")
}

// url is one of those in the line that says what is served where.
func (d *instance) url(t testing.TB, key string) string {
	t.Helper()
	return strings.Trim(field(d.log.wait(t, "now serving peer/client/metrics", 0), key), "[]")
}

func (d *instance) dial(t testing.TB) *clientv3.Client {
	t.Helper()
	return dial(t, d.client(t))
}

func dial(t testing.TB, address string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{address}, Logger: zap.NewNop(), DialTimeout: patience})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func put(t testing.TB, c *clientv3.Client, key, value string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := c.Put(ctx, key, value)
	return err
}

func get(t testing.TB, c *clientv3.Client, key string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := c.Get(ctx, key)
	must(t, err)
	if len(r.Kvs) == 0 {
		return ""
	}
	return string(r.Kvs[0].Value)
}

// ask makes a plain request; more may change it.
func ask(t testing.TB, url string, more ...func(*http.Request)) (status int, head http.Header, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	must(t, err)
	for _, change := range more {
		change(r)
	}
	return tell(t, http.DefaultClient, r)
}

func tell(t testing.TB, c *http.Client, r *http.Request) (status int, head http.Header, body string) {
	t.Helper()
	answer, err := c.Do(r)
	must(t, err)
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	must(t, err)
	return answer.StatusCode, answer.Header, string(b)
}

// manager is a service manager that writes down what it is told.
type manager struct {
	conn  *net.UnixConn
	told  chan string
	heard []string
}

// newManager makes one; its notifier is what a daemon under it would have.
func newManager(t *testing.T) (*manager, sd.Notifier) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	m := &manager{conn: conn, told: make(chan string, 10_000)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 4096)
		for {
			n, err := conn.Read(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			m.told <- string(buffer[:n])
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	t.Setenv("NOTIFY_SOCKET", path)
	return m, sd.NewNotifier()
}

// expect waits for a notice that begins with one text and has the other.
func (m *manager) expect(t testing.TB, begin, part string) string {
	t.Helper()
	limit := time.After(patience)
	for {
		select {
		case text := <-m.told:
			m.heard = append(m.heard, text)
			if strings.HasPrefix(text, begin) && strings.Contains(text, part) {
				return text
			}
		case <-limit:
			t.Fatalf("no notice %q … %q among\n%s", begin, part, strings.Join(m.heard, "\n"))
		}
	}
}

// position is where a notice with a text was, among those heard; -1 for never.
func (m *manager) position(part string) int {
	for i, text := range m.heard {
		if strings.Contains(text, part) {
			return i
		}
	}
	return -1
}

func dialSocket(path string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
}

// waitFor looks until something is so.
func waitFor(t testing.TB, is func() bool) {
	t.Helper()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for limit := time.After(patience); !is(); {
		select {
		case <-look.C:
		case <-limit:
			t.Fatal("it never came to be")
		}
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return string(b)
}
