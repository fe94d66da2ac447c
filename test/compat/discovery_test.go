package compat

import (
	"context"
	"crypto/sha1" // what etcd makes its IDs of
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/test/oracle"
)

// registry is a discovery service with one token.
type registry struct {
	*oracle.Member
	kv pb.KVClient
}

// newRegistry starts a server as discovery service; size is what the operator
// puts, "" for nothing.
func newRegistry(t *testing.T, bin oracle.Binary, size string) *registry {
	t.Helper()
	m := oracle.Start(t, bin, oracle.Options{})
	r := &registry{m, pb.NewKVClient(m.Dial())}
	if size != "" {
		r.put(t, "/_etcd/registry/T/_config/size", size)
	}
	return r
}

func (r *registry) put(t *testing.T, key, value string) {
	t.Helper()
	if _, err := r.kv.Put(t.Context(), &pb.PutRequest{Key: []byte(key), Value: []byte(value)}); err != nil {
		t.Fatal(err)
	}
}

// rows are what members have registered, in key order.
func (r *registry) rows(t *testing.T) []string {
	t.Helper()
	const from, to = "/_etcd/registry/T/members/", "/_etcd/registry/T/members0"
	answer, err := r.kv.Range(t.Context(), &pb.RangeRequest{Key: []byte(from), RangeEnd: []byte(to)})
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, kv := range answer.Kvs {
		rows = append(rows, fmt.Sprintf("%s %s", kv.Key, kv.Value))
	}
	return rows
}

// registered waits until as many members have.
func (r *registry) registered(t *testing.T, n int) []string {
	t.Helper()
	var rows []string
	eventually(t, func() bool { rows = r.rows(t); return len(rows) == n }, func() string {
		return fmt.Sprintf("%d members registered: %q", n, rows)
	})
	return rows
}

func (r *registry) clear(t *testing.T) {
	t.Helper()
	if _, err := r.kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{
		Key: []byte("/_etcd/registry/T/members/"), RangeEnd: []byte("/_etcd/registry/T/members0"),
	}); err != nil {
		t.Fatal(err)
	}
}

// eventually looks until something is so.
func eventually(t *testing.T, is func() bool, what func() string) {
	t.Helper()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for limit := time.After(oracle.ReadyWithin); !is(); {
		select {
		case <-look.C:
		case <-limit:
			t.Fatalf("it never came to be: %s", what())
		}
	}
}

// logs waits until a server has written something.
func logs(t *testing.T, m *oracle.Member, text string) {
	t.Helper()
	eventually(t, func() bool { return strings.Contains(m.Log(), text) }, func() string { return m.Name + " writes " + text })
}

// discovering are the options of a member that finds the others there.
func discovering(t *testing.T, r *registry, name string, more ...string) oracle.Options {
	return oracle.Options{
		Name: name, PeerURL: "http://" + oracle.FreeAddress(t),
		Args: append([]string{"--initial-cluster=", "--discovery-token=T", "--discovery-endpoints=" + r.ClientURL}, more...),
	}
}

// TestMembersRegisterAsEtcdsDo lets a member of each kind register in the place
// of the other, at a service of each kind.
func TestMembersRegisterAsEtcdsDo(t *testing.T) {
	t.Parallel()
	for _, service := range []oracle.Binary{oracle.Etcd(t), target(t)} {
		t.Run("at "+service.Name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t, service, "2")
			o := discovering(t, r, "m1")
			o.Args = append(o.Args, "--initial-advertise-peer-urls="+o.PeerURL+",http://127.0.0.1:7,http://127.0.0.1:1")
			var rows [2]string
			for i, bin := range []oracle.Binary{oracle.Etcd(t), target(t)} {
				m := oracle.Launch(t, bin, o)
				rows[i] = r.registered(t, 1)[0]
				logs(t, m, "waiting for peers from discovery service")
				if err := m.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				if _, err := m.Wait(oracle.ReadyWithin); err != nil {
					t.Errorf("%s waits and cannot be stopped: %v", bin.Name, err)
				}
				r.clear(t)
			}
			if rows[0] != rows[1] {
				t.Errorf("etcd registers %s\nkvd registers  %s", rows[0], rows[1])
			}
		})
	}
}

// TestMembersOfBothKindsDiscoverEachOther: they must come to the same cluster.
func TestMembersOfBothKindsDiscoverEachOther(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, oracle.Etcd(t), "2")
	ours := oracle.Launch(t, target(t), discovering(t, r, "m1"))
	r.registered(t, 1)
	theirs := oracle.Launch(t, oracle.Etcd(t), discovering(t, r, "m2"))
	for _, m := range []*oracle.Member{ours, theirs} {
		logs(t, m, "starting local member")
	}
	ids := []string{memberID(ours.PeerURL, "T"), memberID(theirs.PeerURL, "T")}
	rows := r.rows(t)
	for i, m := range []*oracle.Member{ours, theirs} {
		if line := lineOf(m, "starting local member"); !strings.Contains(line, ids[i]) {
			t.Errorf("%s is not member %s: %s", m.Name, ids[i], line)
		}
		if text := fmt.Sprint(rows); !strings.Contains(text, "/"+ids[i]+" "+m.Name+"="+m.PeerURL) {
			t.Errorf("%s is not registered: %s", m.Name, text)
		}
	}
	cluster := clusterOf(ours)
	if cluster == "" || cluster != clusterOf(theirs) {
		t.Errorf("kvd is in cluster %q, etcd in %q", cluster, clusterOf(theirs))
	}
	for _, m := range []*oracle.Member{ours, theirs} {
		if err := m.Ready(oracle.ReadyWithin); err != nil {
			t.Fatal(err)
		}
		if names := namesOf(t, m); !slices.Equal(names, []string{"m1", "m2"}) {
			t.Errorf("%s knows of %q", m.Binary.Name, names)
		}
	}
}

// memberID is the ID of a founding member with one URL.
func memberID(url, token string) string {
	sum := sha1.Sum([]byte(url + token))
	return fmt.Sprintf("%x", binary.BigEndian.Uint64(sum[:]))
}

// lineOf is the first line of a log with a text.
func lineOf(m *oracle.Member, text string) string {
	for line := range strings.Lines(m.Log()) {
		if strings.Contains(line, text) {
			return line
		}
	}
	return ""
}

// clusterOf is the cluster that a member says it starts in, in either format of
// the log.
func clusterOf(m *oracle.Member) string {
	_, rest, _ := strings.Cut(lineOf(m, "starting local member"), "cluster-id")
	rest = strings.TrimLeft(rest, `":= `)
	end := strings.IndexFunc(rest, func(r rune) bool { return !strings.ContainsRune("0123456789abcdef", r) })
	if end < 0 {
		return rest
	}
	return rest[:end]
}

func TestDiscoveryFailsAsEtcds(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, oracle.Etcd(t), "")
	for _, c := range []struct{ size, row, want string }{
		{"", "", "failed to join discovery cluster (discovery: size key not found"},
		{"many", "", "failed to join discovery cluster (discovery: size key is bad"},
		{"1", "other=http://127.0.0.1:7", "failed to join discovery cluster (discovery: cluster is full)"},
	} {
		if c.size != "" {
			r.put(t, "/_etcd/registry/T/_config/size", c.size)
		}
		if c.row != "" {
			r.put(t, "/_etcd/registry/T/members/7", c.row)
		}
		for _, bin := range []oracle.Binary{oracle.Etcd(t), target(t)} {
			o := discovering(t, r, "m1")
			if bin != oracle.Etcd(t) {
				o.Args = append(o.Args, "--discovery-fallback=exit") // etcd does not become a proxy
			}
			m := oracle.Launch(t, bin, o)
			exit, err := m.Wait(oracle.ReadyWithin)
			if err != nil || exit.InOrder() || !strings.Contains(m.Log(), c.want) {
				t.Errorf("size %q, %s: %v, %v\n%s", c.size, bin.Name, exit, err, m.Log())
			}
		}
	}
}

// TestAMemberDiscoversItself: a size of one is how a single member is tried out.
// Later starts do not ask again.
func TestAMemberDiscoversItself(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, target(t), "1")
	o := discovering(t, r, "m1")
	m := oracle.Start(t, target(t), o)
	id := memberID(m.PeerURL, "T")
	if rows := r.rows(t); len(rows) != 1 || !strings.Contains(rows[0], "/"+id+" m1="+m.PeerURL) {
		t.Errorf("registered: %q", rows)
	}
	m.Stop()
	r.Stop()
	m = oracle.Start(t, target(t), m.Options)
	list, err := pb.NewClusterClient(m.Dial()).MemberList(context.Background(), &pb.MemberListRequest{})
	if err != nil || len(list.Members) != 1 || fmt.Sprintf("%x", list.Members[0].ID) != id {
		t.Errorf("%v, %v", list, err)
	}
}

// TestDiscoveryLogsInOverTLS asks a service that shows a certificate and wants
// a user.
func TestDiscoveryLogsInOverTLS(t *testing.T) {
	t.Parallel()
	plain, secure := "http://"+oracle.FreeAddress(t), "https://"+oracle.FreeAddress(t)
	m := oracle.Start(t, oracle.Etcd(t), oracle.Options{ClientURL: plain, Args: []string{
		"--auto-tls", "--listen-client-urls=" + plain + "," + secure, "--advertise-client-urls=" + secure,
	}})
	r := &registry{m, pb.NewKVClient(m.Dial())}
	r.put(t, "/_etcd/registry/T/_config/size", "1")
	for _, args := range []string{"user add root:secret", "user grant-role root root", "auth enable"} {
		oracle.Etcdctl(t).MustRun(t, append([]string{"--endpoints", plain}, strings.Fields(args)...)...)
	}
	certificate := "--discovery-cacert=" + filepath.Join(m.DataDir, "fixtures", "client", "cert.pem")
	for _, c := range []struct {
		name string
		args []string
		fail string // in the log; "" if it comes to be
	}{
		{"by its certificate", []string{certificate, "--discovery-user=root", "--discovery-password=secret"}, ""},
		{"by any certificate", []string{"--discovery-insecure-skip-tls-verify", "--discovery-user=root:secret"}, ""},
		{"with another password", []string{certificate, "--discovery-user=root", "--discovery-password=guess"}, "authentication failed"},
		{"by a certificate of nobody", []string{"--discovery-insecure-transport=false", "--discovery-user=root:secret"}, "retry connecting to discovery service"},
	} {
		t.Run(c.name, func(t *testing.T) {
			oracle.Etcdctl(t).MustRun(t, "--endpoints", plain, "--user=root:secret", "del", "--prefix", "/_etcd/registry/T/members")
			o := discovering(t, r, "m1", c.args...)
			o.Args = append(o.Args, "--discovery-endpoints="+secure)
			if c.fail != "" {
				logs(t, oracle.Launch(t, target(t), o), c.fail)
				return
			}
			member := oracle.Start(t, target(t), o)
			if id := membersOf(t, member).Members[0].ID; fmt.Sprintf("%x", id) != memberID(member.PeerURL, "T") {
				t.Errorf("it is member %x", id)
			}
		})
	}
}
