package config

import (
	"crypto/tls"
	"fmt"
	"math"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"kvd/internal/sd"
)

// What etcd makes of a zero.
const (
	defaultSnapshotCount   = 10000
	defaultQuota           = 2 << 30
	defaultBatchLimit      = 10000
	defaultCompactionBatch = 1000
	defaultCompactionSleep = 10 * time.Millisecond
	defaultWarnUnary       = 300 * time.Millisecond
	defaultProgress        = 10 * time.Minute
	defaultBcryptCost      = 10
)

// And the bounds that it moves values to.
const (
	leastProgress    = 100 * time.Millisecond
	leastRaftTimeout = 5 * time.Second
	leastBcryptCost  = 4
	mostBcryptCost   = 31
)

// derive fills in what follows from other options, in etcd's order.
func (l *loader) derive(host func() (string, error)) {
	c := l.config
	switch c.Log.Format {
	case "console": // etcd's word
		c.Log.Format = "text"
	case "":
		c.Log.Format = "auto"
	}
	discovering := c.Discovery.SRVDomain != "" || c.Discovery.SRVName != "" || len(c.Discovery.Endpoints) > 0
	if discovering && !c.Given("initial-cluster") {
		l.derived("initial-cluster", "a discovery option", "")
	}
	l.deriveHost(host)
	if c.Member.Name != "default" && !c.Given("initial-cluster") && !discovering {
		l.derived("initial-cluster", "name and initial-advertise-peer-urls", l.ownCluster())
	}
	if c.Member.DataDir == "" {
		l.deriveDataDir()
	}
	l.deriveZeros()
	l.deriveBounds()
	l.deriveFlush()
	l.deriveRetention()
	l.deriveCredentials()
}

// derived sets an option to what follows from others.
func (l *loader) derived(name, from, text string) {
	o := l.names[name]
	if err := o.bind(l.config).set(text); err != nil {
		at := l.blame(from)
		l.faults = append(l.faults, at.fault(name, fmt.Sprintf("derived from %s: %v", from, err), ""))
		return
	}
	l.config.origins[name] = Origin{Derived, "derived from " + from}
}

// blame finds the place of the first option that a text names.
func (l *loader) blame(names string) at {
	for _, name := range strings.Fields(names) {
		if place, ok := l.places[name]; ok {
			return place
		}
	}
	return at{Origin: Origin{FromDefault, "defaults"}}
}

// ownCluster is the cluster of this member alone.
func (l *loader) ownCluster() string {
	c := l.config
	name := c.Member.Name
	if name == "" {
		name = "default"
	}
	var pairs []string
	for _, u := range c.Advertise.Peer {
		pairs = append(pairs, name+"="+u.String())
	}
	return strings.Join(pairs, ",")
}

// deriveHost replaces localhost in the advertised URLs by an address that
// others can reach, where this member listens on all addresses.
func (l *loader) deriveHost(host func() (string, error)) {
	c := l.config
	for _, side := range []struct {
		option     string
		advertised []url.URL
		listen     []url.URL
		standard   string
	}{
		{"initial-advertise-peer-urls", c.Advertise.Peer, c.Listen.Peer, "http://localhost:2380"},
		{"advertise-client-urls", c.Advertise.Client, c.Listen.Client, "http://localhost:2379"},
	} {
		if urlTexts(side.advertised) != side.standard || len(side.listen) == 0 || side.listen[0].Hostname() != "0.0.0.0" {
			continue
		}
		name, err := host()
		if err != nil {
			c.warn("%s stays %s: no default route (%v)", side.option, side.standard, err)
			continue
		}
		u := url.URL{Scheme: "http", Host: net.JoinHostPort(name, side.listen[0].Port())}
		l.derived(side.option, "the default route", u.String())
	}
}

// defaultHost is this machine's address on the default route, IPv4 first.
// Connecting a datagram socket asks the kernel for the route and sends
// nothing; the addresses are reserved for documentation and belong to nobody.
func defaultHost() (string, error) {
	conn, err := net.Dial("udp4", "192.0.2.1:9")
	if err != nil {
		if conn, err = net.Dial("udp6", "[2001:db8::1]:9"); err != nil {
			return "", err
		}
	}
	defer conn.Close()
	host, _, err := net.SplitHostPort(conn.LocalAddr().String())
	return host, err
}

func (l *loader) deriveDataDir() {
	if dir := sd.State.Path(l.getenv); dir != "" {
		l.derived("data-dir", string(sd.State), dir)
		return
	}
	if l.aside {
		if unit, dir := unitDataDir(l.config.File); dir != "" {
			l.derived("data-dir", unit, dir)
			return
		}
	}
	l.derived("data-dir", "name", l.config.Member.Name+".etcd")
	l.config.warn("data-dir is not set; using %s in the working directory", l.config.Member.DataDir)
}

// deriveZeros replaces zeros that stand for a default.
func (l *loader) deriveZeros() {
	c := l.config
	orDefault(&c.Raft.SnapshotCount, defaultSnapshotCount)
	orDefault(&c.Store.QuotaBytes, defaultQuota)
	orDefault(&c.Store.BatchLimit, defaultBatchLimit)
	orDefault(&c.Compaction.BatchLimit, defaultCompactionBatch)
	orDefault(&c.Compaction.SleepInterval, defaultCompactionSleep)
	orDefault(&c.Limits.WarnUnary, defaultWarnUnary)
	orDefault(&c.Watch.ProgressInterval, defaultProgress)
	if len(c.Log.Outputs) == 0 {
		c.Log.Outputs = []string{"default"}
	}
}

func orDefault[T comparable](to *T, standard T) {
	var zero T
	if *to == zero {
		*to = standard
	}
}

// deriveBounds moves values into the bounds that etcd moves them to, with a
// warning, where it would not refuse them.
func (l *loader) deriveBounds() {
	c := l.config
	for name, timeout := range map[string]*time.Duration{
		"raft-read-timeout": &c.Raft.ReadTimeout, "raft-write-timeout": &c.Raft.WriteTimeout,
	} {
		if *timeout < leastRaftTimeout {
			*timeout = leastRaftTimeout
			c.warn("%s increased to minimum value: %v", name, leastRaftTimeout)
		}
	}
	if c.Watch.ProgressInterval < leastProgress {
		c.Watch.ProgressInterval = leastProgress
		c.warn("watch-progress-notify-interval increased to minimum value: %v", leastProgress)
	}
	if c.Auth.BcryptCost < leastBcryptCost || c.Auth.BcryptCost > mostBcryptCost {
		c.warn("bcrypt-cost %d is not between %d and %d; using %d",
			c.Auth.BcryptCost, leastBcryptCost, mostBcryptCost, defaultBcryptCost)
		c.Auth.BcryptCost = defaultBcryptCost
	}
	slices.Sort(c.Warnings) // of a map
	for _, suite := range tls.InsecureCipherSuites() {
		if slices.Contains(c.TLS.CipherSuites, suite.ID) {
			c.warn("cipher-suites: %s is not secure any more", suite.Name)
		}
	}
}

// deriveFlush takes etcd's name for the flush interval over.
func (l *loader) deriveFlush() {
	c := l.config
	if c.sink.batchInterval > 0 && !c.Given("flush-interval") {
		l.derived("flush-interval", "backend-batch-interval", c.sink.batchInterval.String())
	}
}

// deriveRetention reads auto-compaction-retention as its mode tells. A bad
// mode is the rules' to report.
func (l *loader) deriveRetention() {
	c := &l.config.Compaction
	n, err := strconv.Atoi(c.Retention)
	switch {
	case err == nil && n >= 0 && c.Mode == "revision":
		c.Revisions = int64(n)
		return
	case err == nil && n >= 0:
		if int64(n) > math.MaxInt64/int64(time.Hour) {
			l.retentionFault(errRange)
			return
		}
		c.Window = time.Duration(n) * time.Hour
		return
	}
	d, err := time.ParseDuration(c.Retention)
	if err != nil {
		l.retentionFault(err)
		return
	}
	if c.Mode == "revision" { // etcd counts the nanoseconds of a duration here
		c.Revisions = int64(d)
		return
	}
	c.Window = d
}

func (l *loader) retentionFault(err error) {
	const name = "auto-compaction-retention"
	l.bad[name] = true
	l.faults = append(l.faults, l.blame(name).fault(name, fmt.Sprintf("error parsing CompactionRetention: %v", err),
		"want "+l.names[name].want()))
}

// deriveCredentials resolves paths that name a credential of systemd.
func (l *loader) deriveCredentials() {
	for _, o := range l.table {
		resolve := func(text string) (string, error) { return l.credential(o.name, text) }
		switch {
		case o.name == "auth-token":
			resolve = l.tokenCredentials
		case !o.is(path):
			continue
		}
		v := o.bind(l.config)
		file, err := resolve(v.text())
		if err == nil {
			err = v.set(file)
		}
		if err != nil {
			l.bad[o.name] = true
			l.faults = append(l.faults, l.blame(o.name).fault(o.name, err.Error(), ""))
		}
	}
}
