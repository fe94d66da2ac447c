package daemon

import (
	"errors"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"kvd/internal/bootstrap"
	"kvd/internal/config"
	"kvd/internal/listen"
	"kvd/internal/state"
	"kvd/internal/store"
)

// bare is a listener that has an address and nothing else: tests do not listen
// beyond this machine.
type bare struct {
	net.Listener
	addr net.Addr
}

func (b bare) Addr() net.Addr { return b.addr }

func portAt(scheme, ip string) *listen.Port {
	p := &listen.Port{URL: url.URL{Scheme: scheme}, Listener: bare{addr: &net.TCPAddr{IP: net.ParseIP(ip), Port: 2379}}}
	if scheme == "unix" {
		p.Listener = bare{addr: &net.UnixAddr{Name: "/run/kvd", Net: "unix"}}
	}
	return p
}

func TestPlainPortsBeyondThisMachineAreExposed(t *testing.T) {
	mixed := portAt("https", "192.0.2.2")
	mixed.Mixed = true
	m := &running{config: &config.Config{}}
	m.ports.client = listen.Ports{portAt("http", "127.0.0.1"), portAt("http", "192.0.2.1"), portAt("https", "192.0.2.3"), mixed, portAt("unix", "")}
	m.ports.http = listen.Ports{portAt("http", "::")}
	m.ports.peer = listen.Ports{portAt("http", "0.0.0.0"), portAt("http", "::1")}
	m.ports.metrics = listen.Ports{portAt("http", "192.0.2.4")}
	want := []string{"192.0.2.1:2379", "192.0.2.2:2379", "[::]:2379", "0.0.0.0:2379"}
	if got := m.exposed(); !slices.Equal(got, want) {
		t.Errorf("exposed are %v, want %v", got, want)
	}
	m.config.Listen.AllowPlain = true
	if got := m.exposed(); len(got) != 0 {
		t.Errorf("exposed, though allowed: %v", got)
	}
}

// withAuth makes a member with authentication on or off.
func withAuth(t *testing.T, on byte) *bootstrap.Member {
	t.Helper()
	f, err := store.Open(t.TempDir()+"/db", store.Options{})
	must(t, err)
	t.Cleanup(func() { f.Close() })
	rows := &store.Batch{}
	rows.Put(store.Auth, []byte("authEnabled"), []byte{on})
	must(t, f.Commit(store.Stamp{Index: 1, Term: 1}, rows))
	r, err := f.Read()
	must(t, err)
	defer r.Close()
	machine, err := state.Load(r, func() (store.Reader, error) { return f.Read() }, state.Options{})
	must(t, err)
	return &bootstrap.Member{Store: f, Machine: machine}
}

func TestExposedPortsAndAuthenticationDoNotGoTogether(t *testing.T) {
	for _, c := range []struct {
		ip      string
		on      byte
		refused bool
	}{{"192.0.2.1", 1, true}, {"192.0.2.1", 0, false}, {"127.0.0.1", 1, false}} {
		log := newRecords()
		m := &running{
			config: &config.Config{}, log: slog.New(log), registry: prometheus.NewRegistry(),
			opened: withAuth(t, c.on),
		}
		m.ports.client = listen.Ports{portAt("http", c.ip)}
		m.warnExposed(t.Context())
		if warned := strings.Contains(log.String(), "plain text"); warned != (c.ip != "127.0.0.1") {
			t.Errorf("%+v: warned: %t", c, warned)
		}
		err := m.refuseExposed()
		var refused *ConfigError
		if errors.As(err, &refused) != c.refused {
			t.Errorf("%+v: %v", c, err)
		}
		if c.refused && !(strings.Contains(err.Error(), c.ip) && strings.Contains(err.Error(), "allow-insecure-listen")) {
			t.Errorf("%+v: %v", c, err)
		}
		for range 2 {
			m.watchExposed(t.Context())
		}
		if n := strings.Count(log.String(), "the next start of this member will be refused"); n != int(c.on) && c.refused || n != 0 && !c.refused {
			t.Errorf("%+v: said %d times", c, n)
		}
		if (m.exposedRemark() != "") != c.refused {
			t.Errorf("%+v: the status says %q", c, m.exposedRemark())
		}
	}
}
