package bootstrap

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kvd/internal/freeport"
	"kvd/internal/member"
)

// etcd is what discovery asks of one, in memory.
type etcd struct {
	mu       sync.Mutex
	revision int64
	rows     map[string]entry
	grown    chan struct{} // closed and replaced with each change
	down     int           // how many of the next requests fail
	deaf     bool          // watches end at once, with an error
	mute     bool          // watches never say anything
	requests int
}

func newEtcd(size string) *etcd {
	e := &etcd{rows: map[string]entry{}, grown: make(chan struct{})}
	if size != "" {
		e.set("/_etcd/registry/T/_config/size", size)
	}
	return e
}

func (e *etcd) set(key, value string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.revision++
	created := e.revision
	if was, ok := e.rows[key]; ok {
		created = was.created
	}
	e.rows[key] = entry{key, value, created}
	close(e.grown)
	e.grown = make(chan struct{})
}

func (e *etcd) drop(key string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.revision++
	delete(e.rows, key)
	close(e.grown)
	e.grown = make(chan struct{})
}

func (e *etcd) fail() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.requests++
	if e.down > 0 {
		e.down--
		return errRefused
	}
	return nil
}

func (e *etcd) value(_ context.Context, key string) (string, bool, error) {
	if err := e.fail(); err != nil {
		return "", false, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	row, ok := e.rows[key]
	return row.value, ok, nil
}

func (e *etcd) list(_ context.Context, prefix string) (all []entry, revision int64, err error) {
	if err := e.fail(); err != nil {
		return nil, 0, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(e.rows)) {
		if strings.HasPrefix(key, prefix) {
			all = append(all, e.rows[key])
		}
	}
	return all, e.revision, nil
}

func (e *etcd) put(_ context.Context, key, value string) error {
	if err := e.fail(); err != nil {
		return err
	}
	e.set(key, value)
	return nil
}

func (e *etcd) remove(_ context.Context, key string) error {
	if err := e.fail(); err != nil {
		return err
	}
	e.drop(key)
	return nil
}

func (e *etcd) changed(ctx context.Context, _ string, after int64) error {
	if e.deaf {
		return errRefused
	}
	for {
		e.mu.Lock()
		grown, at := e.grown, e.revision
		e.mu.Unlock()
		if at > after && !e.mute {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// members are the rows of the registry, as they came.
func (e *etcd) members() string {
	all, _, err := e.list(context.Background(), "/_etcd/registry/T/members/")
	if err != nil {
		return err.Error()
	}
	slices.SortFunc(all, func(a, b entry) int { return int(a.created - b.created) })
	var texts []string
	for _, r := range all {
		texts = append(texts, strings.TrimPrefix(r.key, "/_etcd/registry/T/members/")+" "+r.value)
	}
	return strings.Join(texts, "; ")
}

// The rows of two members and the token T, with the IDs that etcd 3.7.3 gives.
const (
	row1 = "2c8d6697a23f06f5 n1=http://127.0.0.1:31501"
	row2 = "63e0d1f4845b64b n2=http://127.0.0.1:31502"
)

// visit is what one member does at the registry.
type visit struct {
	mu    sync.Mutex
	said  []string
	log   bytes.Buffer
	seeds []Seed
	err   error
	done  chan struct{}
}

func (v *visit) result() string {
	<-v.done
	if v.err != nil {
		return "error: " + v.err.Error()
	}
	return pairs(v.seeds...)
}

func (v *visit) waitsFor() string {
	synctest.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	return strings.Join(v.said, "; ")
}

// meet sends a member to the registry.
func meet(ctx context.Context, e registry, token, name string, urls ...string) *visit {
	v := &visit{done: make(chan struct{})}
	say := func(text string) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.said = append(v.said, text)
	}
	m := newMeeting(token, member.NewID(urls, token), Seed{name, urls}, slog.New(slog.NewTextHandler(&v.log, nil)), say)
	m.registry = e
	go func() {
		defer close(v.done)
		v.seeds, v.err = m.join(ctx)
	}()
	return v
}

func meet1(t *testing.T, e registry) *visit {
	return meet(t.Context(), e, "T", "n1", "http://127.0.0.1:31501")
}

func meet2(t *testing.T, e registry) *visit {
	return meet(t.Context(), e, "T", "n2", "http://127.0.0.1:31502")
}

const both = "n1=http://127.0.0.1:31501,n2=http://127.0.0.1:31502"

func TestMembersMeet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEtcd("2")
		v1 := meet1(t, e)
		if got := v1.waitsFor(); got != "waiting for 1 of 2 members in discovery" {
			t.Errorf("it says %q", got)
		}
		v2 := meet2(t, e)
		if a, b := v1.result(), v2.result(); a != both || b != both {
			t.Errorf("%s and %s", a, b)
		}
		if got := e.members(); got != row1+"; "+row2 {
			t.Errorf("the registry has %s", got)
		}
		for _, line := range []string{
			"register member itself successfully", "waiting for peers from discovery service",
			"found peer from discovery service", "found all needed peers from discovery service",
		} {
			if !strings.Contains(v1.log.String(), line) {
				t.Errorf("no line %q", line)
			}
		}
	})
}

// TestTheRegistryIsFollowed changes it in other ways while a member waits.
func TestTheRegistryIsFollowed(t *testing.T) {
	const key1, key2, key3 = "/_etcd/registry/T/members/2c8d6697a23f06f5", "/_etcd/registry/T/members/63e0d1f4845b64b", "/_etcd/registry/T/members/3"
	for _, c := range []struct {
		name string
		size string
		play func(t *testing.T, e *etcd, v *visit)
		want string
		left string // in the registry
	}{
		{"a member comes back before it is complete", "2", func(t *testing.T, e *etcd, _ *visit) {
			e.set(key2, "n2=http://127.0.0.1:31502")
		}, both, row1 + "; " + row2},
		{"another goes and a third comes", "3", func(_ *testing.T, e *etcd, v *visit) {
			e.set(key3, "n3=http://127.0.0.1:3")
			v.waitsFor()
			e.drop(key3)
			v.waitsFor()
			e.set("/_etcd/registry/T/members/4", "n4=http://127.0.0.1:4")
			e.set(key2, "n2=http://127.0.0.1:31502")
		}, "n1=http://127.0.0.1:31501,n2=http://127.0.0.1:31502,n4=http://127.0.0.1:4", row1 + "; 4 n4=http://127.0.0.1:4; " + row2},
		{"its own row goes", "2", func(_ *testing.T, e *etcd, v *visit) {
			e.drop(key1)
			v.waitsFor()
			e.set(key2, "n2=http://127.0.0.1:31502")
		}, both, row1 + "; " + row2},
		{"a row of nonsense", "2", func(_ *testing.T, e *etcd, _ *visit) {
			e.set(key3, "nonsense")
			e.set(key2, "n2=http://127.0.0.1:31502")
		}, both, row1 + "; 3 nonsense; " + row2},
		{
			"a row of a bad URL", "2", func(_ *testing.T, e *etcd, _ *visit) { e.set(key3, "n3=127.0.0.1:3") },
			"error: discovery: invalid peer URL", row1 + "; 3 n3=127.0.0.1:3",
		},
		{
			"a second member of its name", "2", func(_ *testing.T, e *etcd, _ *visit) { e.set(key2, "n1=http://127.0.0.1:31502") },
			`error: discovery: found duplicate name: "n1" is that of ` + key1 + " and of " + key2, row1 + "; 63e0d1f4845b64b n1=http://127.0.0.1:31502",
		},
		{"more come than there is room for", "2", func(_ *testing.T, e *etcd, _ *visit) {
			e.set(key2, "n2=http://127.0.0.1:31502")
			e.set(key3, "n3=http://127.0.0.1:3")
		}, both, row1 + "; " + row2 + "; 3 n3=http://127.0.0.1:3"},
		{"a member of several URLs", "2", func(_ *testing.T, e *etcd, _ *visit) {
			e.set(key3, "n3=http://127.0.0.1:3,n3=http://127.0.0.1:4")
		}, "n1=http://127.0.0.1:31501,n3=http://127.0.0.1:3,n3=http://127.0.0.1:4", row1 + "; 3 n3=http://127.0.0.1:3,n3=http://127.0.0.1:4"},
		{"a sibling of the token", "2", func(_ *testing.T, e *etcd, _ *visit) {
			e.set("/_etcd/registry/T2/members/3", "n3=http://127.0.0.1:3")
			e.set(key2, "n2=http://127.0.0.1:31502")
		}, both, row1 + "; " + row2},
		{"the size goes", "2", func(_ *testing.T, e *etcd, _ *visit) {
			e.drop("/_etcd/registry/T/_config/size")
			e.set(key2, "n2=http://127.0.0.1:31502")
		}, "error: discovery: size key not found", row1 + "; " + row2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEtcd(c.size)
				v := meet1(t, e)
				v.waitsFor()
				c.play(t, e, v)
				if got := v.result(); !strings.HasPrefix(got, c.want) {
					t.Errorf("%s\nwant %s", got, c.want)
				}
				if got := e.members(); got != c.left {
					t.Errorf("the registry has %s\nwant %s", got, c.left)
				}
			})
		})
	}
}

func TestWhatDiscoveryIsRefusedFor(t *testing.T) {
	for _, c := range []struct {
		size, want string
	}{
		{"", "discovery: size key not found"},
		{"three", "discovery: size key is bad"},
		{"0", "discovery: size key is bad"},
		{"-1", "discovery: size key is bad"},
		{" 3", "discovery: size key is bad"},
	} {
		synctest.Test(t, func(t *testing.T) {
			e := newEtcd(c.size)
			if got := meet1(t, e).result(); !strings.HasPrefix(got, "error: "+c.want) {
				t.Errorf("size %q: %s", c.size, got)
			}
			if got := e.members(); got != "" {
				t.Errorf("size %q: the registry has %s", c.size, got)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		e := newEtcd("1")
		e.set("/_etcd/registry/T/members/3", "n3=http://127.0.0.1:3")
		if got := meet1(t, e).result(); got != "error: discovery: cluster is full" {
			t.Error(got)
		}
		if got := e.members(); got != "3 n3=http://127.0.0.1:3" {
			t.Errorf("the registry has %s", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		if got := meet(t.Context(), newEtcd("1"), "../../x", "n1", "http://a:1").result(); !strings.HasPrefix(got, "error: discovery: the token") {
			t.Error(got)
		}
	})
}

// race lets others register between a member's look and its row.
type race struct {
	*etcd
	first func()
}

func (r *race) put(ctx context.Context, key, value string) error {
	r.first()
	return r.etcd.put(ctx, key, value)
}

func TestAMemberThatComesTooLateTakesItsRowBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEtcd("1")
		r := &race{e, func() { e.set("/_etcd/registry/T/members/3", "n3=http://127.0.0.1:3") }}
		if got := meet1(t, r).result(); got != "error: discovery: cluster is full" {
			t.Error(got)
		}
		if got := e.members(); got != "3 n3=http://127.0.0.1:3" {
			t.Errorf("the registry has %s", got)
		}
	})
}

// TestAMemberThatWasRegisteredKeepsItsPlace, also with another name.
func TestAMemberThatWasRegisteredKeepsItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEtcd("2")
		e.set("/_etcd/registry/T/members/2c8d6697a23f06f5", "old=http://127.0.0.1:31501")
		for _, id := range []string{"3", "4"} {
			e.set("/_etcd/registry/T/members/"+id, "n"+id+"=http://127.0.0.1:"+id)
		}
		if got := meet1(t, e).result(); got != "n1=http://127.0.0.1:31501,n3=http://127.0.0.1:3" {
			t.Error(got)
		}
	})
}

func TestDiscoveryInsists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEtcd("2")
		e.set("/_etcd/registry/T/members/63e0d1f4845b64b", "n2=http://127.0.0.1:31502")
		e.down = 3
		began := time.Now()
		v := meet1(t, e)
		if got := v.result(); got != both {
			t.Error(got)
		}
		if took := time.Since(began); took != (2+4+8)*time.Second {
			t.Errorf("it took %v", took)
		}
		if !strings.Contains(v.log.String(), "retry connecting to discovery service") || !strings.Contains(strings.Join(v.said, " "), "cluster status check (connection refused)") {
			t.Errorf("%s\n%q", &v.log, v.said)
		}
	})
	t.Run("until it is told to stop", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			e := newEtcd("2")
			e.down = 1 << 30
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			v := meet(ctx, e, "T", "n1", "http://127.0.0.1:31501")
			v.result()
			if !errors.Is(v.err, context.DeadlineExceeded) || !errors.Is(v.err, errRefused) {
				t.Error(v.err)
			}
			if e.requests > 25 {
				t.Errorf("%d requests in an hour", e.requests)
			}
		})
	})
}

// TestAWatchThatFailsIsNoBusyLoop, and a dead one does not hide who has come.
func TestAWatchThatFailsIsNoBusyLoop(t *testing.T) {
	for name, spoil := range map[string]func(*etcd){"deaf": func(e *etcd) { e.deaf = true }, "mute": func(e *etcd) { e.mute = true }} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEtcd("2")
				spoil(e)
				v := meet1(t, e)
				time.Sleep(time.Minute)
				synctest.Wait()
				e.mu.Lock()
				requests := e.requests
				e.mu.Unlock()
				if requests > 150 {
					t.Errorf("%d requests in a minute", requests)
				}
				began := time.Now()
				e.set("/_etcd/registry/T/members/63e0d1f4845b64b", "n2=http://127.0.0.1:31502")
				if got := v.result(); got != both || time.Since(began) > lookAgain {
					t.Errorf("%s after %v", got, time.Since(began))
				}
			})
		})
	}
}

func TestDiscoveryThatCannotBeginWritesNothing(t *testing.T) {
	for _, d := range []Discovery{
		{Endpoints: []string{"127.0.0.1:1"}, Token: "T", CAFile: "/absent/ca.crt"},
		{Endpoints: []string{"127.0.0.1:1"}, Token: "T", CertFile: "/absent/a.crt", KeyFile: "/absent/a.key"},
		{Endpoints: []string{"127.0.0.1:1"}, Token: ".."},
	} {
		o := alone(filepath.Join(t.TempDir(), "data"))
		o.Discovery, o.Cluster = d, nil
		_, err := Open(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), "failed to join discovery cluster (") {
			t.Errorf("%+v: %v", d, err)
		}
		if wantCluster := d.Token == ".."; errors.Is(err, ErrCluster) != wantCluster {
			t.Errorf("%+v: %v", d, err)
		}
		if kind, err := Identify(o.DataDir); kind != Empty || err != nil {
			t.Errorf("%+v: %v, %v", d, kind, err)
		}
	}
}

func TestDiscoveryEndsWithItsContext(t *testing.T) {
	o := alone(filepath.Join(t.TempDir(), "data"))
	o.Cluster = nil
	for _, user := range []string{"", "root:secret"} {
		ctx, cancel := context.WithCancel(t.Context())
		said := make(chan string, 100)
		o.Progress = func(text string) { said <- text; cancel() }
		o.Discovery = Discovery{Endpoints: []string{freeport.Address(t)}, Token: "T", User: user, DialTimeout: time.Second, RequestTimeout: time.Second, InsecureTransport: true}
		if _, err := Open(ctx, o); !errors.Is(err, context.Canceled) {
			t.Errorf("user %q: %v", user, err)
		}
		if text := <-said; !strings.HasPrefix(text, "waiting for the discovery service: ") {
			t.Errorf("user %q: it said %q", user, text)
		}
	}
}
