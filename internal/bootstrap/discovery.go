package bootstrap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"kvd/internal/member"
)

// Discovery is an etcd cluster at which the members of a new one find each
// other: each registers below a token until as many have as the operator wants.
type Discovery struct {
	Endpoints        []string // none: no discovery
	Token            string
	DialTimeout      time.Duration
	RequestTimeout   time.Duration // of each request; waiting for the others has none
	KeepAliveTime    time.Duration
	KeepAliveTimeout time.Duration

	InsecureTransport  bool // no TLS, unless one of the files is given
	InsecureSkipVerify bool
	CertFile           string
	KeyFile            string
	CAFile             string

	User     string // may be name:password
	Password string
}

// FullError is that the cluster to discover has all its members.
type FullError struct {
	PeerURLs []string // of its founders, as far as they can be read
}

func (*FullError) Error() string { return "discovery: cluster is full" }

// fullOf tells who is in the cluster: the first so many of those registered.
func fullOf(size int, found []entry) *FullError {
	e := new(FullError)
	seeds, err := seedsOf(found[:min(size, len(found))])
	if err != nil {
		return e // that it is full is known all the same
	}
	for _, s := range seeds {
		e.PeerURLs = append(e.PeerURLs, s.PeerURLs...)
	}
	return e
}

// What else discovery fails for, in etcd's words.
var (
	errSizeMissing   = errors.New("discovery: size key not found")
	errSizeBad       = errors.New("discovery: size key is bad")
	errDuplicateName = errors.New("discovery: found duplicate name")
	errBadURL        = errors.New("discovery: invalid peer URL")
	errBadToken      = errors.New("discovery: the token leads out of the registry")
)

const (
	registryRoot = "/_etcd/registry"
	// lookAgain is how long an unchanged registry is trusted: a watch may be dead
	// without saying so.
	lookAgain = 30 * time.Second
	// mostRetries is how often the pause between two tries doubles: 256 s.
	mostRetries = 8
)

// registry is where members register: a few rows of an etcd.
type registry interface {
	value(ctx context.Context, key string) (value string, ok bool, err error)
	// list returns the rows whose keys begin with prefix, and the revision it
	// is the state of.
	list(ctx context.Context, prefix string) ([]entry, int64, error)
	put(ctx context.Context, key, value string) error
	remove(ctx context.Context, key string) error
	// changed returns when something below prefix has changed after a revision.
	// An error says that it cannot tell.
	changed(ctx context.Context, prefix string, after int64) error
}

// entry is a row of the registry.
type entry struct {
	key, value string
	created    int64 // revision
}

// discover registers this member and waits for the others.
func (o *Options) discover(ctx context.Context) (*birth, error) {
	self := Seed{o.Name, sorted(o.Advertised)}
	id := member.NewID(self.PeerURLs, o.Discovery.Token)
	o.Logger.Info("Bootstrapping cluster using v3 discovery.")
	failed := func(err error) error {
		var full *FullError
		if errors.As(err, &full) || errors.Is(err, errDuplicateName) || errors.Is(err, errBadToken) {
			return fmt.Errorf("%w: failed to join discovery cluster (%w)", ErrCluster, err)
		}
		return fmt.Errorf("failed to join discovery cluster (%w)", err)
	}
	log := o.Logger.With("discovery-token", o.Discovery.Token, "discovery-endpoints", strings.Join(o.Discovery.Endpoints, ","))
	m := newMeeting(o.Discovery.Token, id, self, log, o.Progress)
	board, err := o.Discovery.connect(ctx, m)
	if err != nil {
		return nil, failed(err)
	}
	defer board.close()
	m.registry = board
	seeds, err := m.join(ctx)
	if err != nil {
		log.Error("discovery failed to join cluster", "error", err)
		return nil, failed(err)
	}
	log.Info("discovery joined cluster successfully", "cluster", pairs(seeds...))
	if err := distinct("discovery cluster", seeds); err != nil {
		return nil, err
	}
	return o.founders(seeds, o.Discovery.Token)
}

// meeting is one member's way through the registry.
type meeting struct {
	home     string // above the rows of the token
	key      string // of this member's row
	self     Seed
	registry registry
	log      *slog.Logger
	progress func(string)
	retries  int // since something went well
}

func newMeeting(token string, id member.ID, self Seed, log *slog.Logger, progress func(string)) *meeting {
	home := path.Join(registryRoot, token)
	return &meeting{home: home, key: path.Join(home, "members", id.String()), self: self, log: log, progress: progress}
}

// connect dials. It insists, unless the service does not know the user.
func (d Discovery) connect(ctx context.Context, m *meeting) (*board, error) {
	secure, err := d.secure()
	if err != nil {
		return nil, err
	}
	for {
		b, err := d.dial(ctx, secure)
		if err == nil || d.User == "" || errors.Is(err, rpctypes.ErrAuthFailed) {
			m.retries = 0
			return b, err
		}
		if err := m.pause(ctx, "log in", err); err != nil {
			return nil, err
		}
	}
}

func (m *meeting) members() string { return path.Join(m.home, "members") }

// join registers, waits until enough have, and returns the founders.
func (m *meeting) join(ctx context.Context) ([]Seed, error) {
	if !strings.HasPrefix(m.home, registryRoot+"/") {
		return nil, errBadToken
	}
	registered := false // by this process, where there was nothing before
	for {
		size, found, revision, err := m.look(ctx)
		if err != nil {
			return nil, err
		}
		at := slices.IndexFunc(found, func(e entry) bool { return e.key == m.key })
		if at >= size || at < 0 && len(found) >= size {
			if registered && at >= 0 {
				m.leave(ctx)
			}
			return nil, fullOf(size, found)
		}
		if at < 0 || !registered && found[at].value != pairs(m.self) {
			if err := m.register(ctx); err != nil {
				return nil, err
			}
			registered = registered || at < 0
			continue
		}
		if len(found) >= size {
			m.log.Info("found all needed peers from discovery service", "clusterSize", size, "found-peers", len(found))
			return seedsOf(found[:size])
		}
		m.log.Info("waiting for peers from discovery service", "clusterSize", size, "found-peers", len(found))
		m.progress(fmt.Sprintf("waiting for %d of %d members in discovery", size-len(found), size))
		if err := m.await(ctx, revision); err != nil {
			return nil, err
		}
	}
}

// await waits for a change behind a revision, but not for ever. Whatever the
// watch ends with, the registry is read anew: it says what is so.
func (m *meeting) await(ctx context.Context, revision int64) error {
	limited, cancel := context.WithTimeout(ctx, lookAgain)
	defer cancel()
	if err := m.registry.changed(limited, m.members(), revision); err == nil {
		return nil
	}
	select {
	case <-limited.Done():
	case <-time.After(resolvePause): // the watch failed; that must not become a busy loop
	}
	return ctx.Err()
}

// look reads how many are wanted and who is there, in the order in which they
// came. It insists.
func (m *meeting) look(ctx context.Context) (size int, found []entry, revision int64, err error) {
	for {
		size, found, revision, err = m.lookOnce(ctx)
		switch {
		case err == nil:
			m.retries = 0
			return size, found, revision, nil
		case errors.Is(err, errSizeMissing), errors.Is(err, errSizeBad):
			return 0, nil, 0, err
		}
		if err := m.pause(ctx, "cluster status check", err); err != nil {
			return 0, nil, 0, err
		}
	}
}

func (m *meeting) lookOnce(ctx context.Context) (size int, found []entry, revision int64, err error) {
	sizeKey := path.Join(m.home, "_config/size")
	text, ok, err := m.registry.value(ctx, sizeKey)
	switch {
	case err != nil:
		return 0, nil, 0, err
	case !ok:
		return 0, nil, 0, fmt.Errorf("%w: the operator has to put it: %s", errSizeMissing, sizeKey)
	}
	if size, err = strconv.Atoi(text); err != nil || size <= 0 {
		return 0, nil, 0, fmt.Errorf("%w: %s is %q", errSizeBad, sizeKey, text)
	}
	rows, revision, err := m.registry.list(ctx, m.members())
	if err != nil {
		return 0, nil, 0, err
	}
	for _, e := range rows {
		e.key, e.value = strings.TrimSpace(e.key), strings.TrimSpace(e.value)
		if !strings.Contains(e.value, "=") {
			m.log.Warn("invalid peer info returned from discovery service", "memberKey", e.key, "memberInfo", e.value)
			continue
		}
		m.log.Info("found peer from discovery service", "memberKey", e.key, "memberInfo", e.value)
		found = append(found, e)
	}
	slices.SortStableFunc(found, func(a, b entry) int { return cmp.Compare(a.created, b.created) })
	return size, found, revision, nil
}

// register writes this member's row. Who was registered before keeps the place.
func (m *meeting) register(ctx context.Context) error {
	for {
		err := m.registry.put(ctx, m.key, pairs(m.self))
		if err == nil {
			m.retries = 0
			m.log.Info("register member itself successfully", "memberKey", m.key, "memberInfo", pairs(m.self))
			return nil
		}
		if err := m.pause(ctx, "register member itself", err); err != nil {
			return err
		}
	}
}

// leave takes the row of a member back that came too late. It does no harm if
// it stays.
func (m *meeting) leave(ctx context.Context) {
	if err := m.registry.remove(ctx, m.key); err != nil {
		m.log.Warn("this member stays registered though the cluster is full", "memberKey", m.key, "error", err)
	}
}

// pause waits before the next try, longer each time. It returns when ctx ends
// with what was being tried.
func (m *meeting) pause(ctx context.Context, step string, cause error) error {
	m.retries = min(m.retries+1, mostRetries)
	backoff := time.Second << m.retries
	m.log.Warn("retry connecting to discovery service", "reason", step, "backoff", backoff, "error", cause)
	m.progress(fmt.Sprintf("waiting for the discovery service: %s (%v)", step, cause))
	select {
	case <-ctx.Done():
		return fmt.Errorf("%s: %w (%w)", step, cause, ctx.Err())
	case <-time.After(backoff):
		return nil
	}
}

// seedsOf reads rows as the initial cluster is written.
func seedsOf(rows []entry) ([]Seed, error) {
	var seeds []Seed
	names := map[string]string{} // to the row's key
	for _, e := range rows {
		for pair := range strings.SplitSeq(e.value, ",") {
			if pair == "" {
				continue
			}
			name, place, _ := strings.Cut(pair, "=")
			if err := checkURL(place); err != nil {
				return nil, fmt.Errorf("%w: %s: %w", errBadURL, e.value, err)
			}
			if other, taken := names[name]; taken && other != e.key {
				return nil, fmt.Errorf("%w: %q is that of %s and of %s; give one of them another name, and remove its row at the discovery service",
					errDuplicateName, name, other, e.key)
			}
			names[name] = e.key
			seeds = append(seeds, Seed{name, []string{place}})
		}
	}
	return merge(seeds), nil
}

// checkURL checks a URL that somebody else has written.
func checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return err
	case !slices.Contains([]string{"http", "https", "unix", "unixs"}, u.Scheme):
		return fmt.Errorf("URL scheme must be http, https, unix, or unixs: %s", text)
	case u.Scheme == "unix" || u.Scheme == "unixs":
		return nil
	case u.Path != "":
		return fmt.Errorf("URL must not contain a path: %s", text)
	}
	if _, _, err := net.SplitHostPort(u.Host); err != nil {
		return fmt.Errorf(`URL address does not have the form "host:port": %s`, text)
	}
	return nil
}
