package peer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/lease"
	"kvd/internal/member"
	"kvd/internal/mvcc"
)

// wrapped is a sentinel as a desk returns it.
func wrapped(err error) error { return fmt.Errorf("do something to 5: %w", err) }

// desk answers from what the test sets.
type desk struct {
	hash      Hash
	versions  Versions
	downgrade bool
	members   []member.Member
	ttl       int64
	err       error
	token     string
}

func (d *desk) desk() Desk {
	return Desk{
		Members:   func() []member.Member { return d.members },
		Versions:  func() Versions { return d.versions },
		Downgrade: func(context.Context) (bool, error) { return d.downgrade, d.err },
		HashKV: func(_ context.Context, rev int64) (Hash, error) {
			h := d.hash
			h.At = rev
			return h, d.err
		},
		Promote: func(ctx context.Context, _ member.ID) ([]member.Member, error) {
			d.token = Token(ctx)
			return d.members, d.err
		},
		Renew: func(context.Context, lease.ID) (int64, error) { return d.ttl, d.err },
		TimeToLive: func(_ context.Context, id lease.ID, keys bool) (*pb.LeaseTimeToLiveResponse, error) {
			r := &pb.LeaseTimeToLiveResponse{Header: &pb.ResponseHeader{}, ID: int64(id), TTL: d.ttl, GrantedTTL: 2 * d.ttl}
			if keys {
				r.Keys = [][]byte{[]byte("k")}
			}
			return r, d.err
		},
	}
}

func answering(t *testing.T, d *desk) *station {
	return newStation(t, 0xb, func(_ *Options, p *Parts) { p.Desk = d.desk() })
}

func TestTheDeskAnswersAsEtcdDoes(t *testing.T) {
	two := []member.Member{
		{ID: 8025458187174840792, PeerURLs: []string{"http://127.0.0.1:1"}, Name: "m1", ClientURLs: []string{"http://127.0.0.1:2"}},
		{ID: 9, PeerURLs: []string{"http://127.0.0.1:3"}, Learner: true},
	}
	const list = `[{"id":8025458187174840792,"peerURLs":["http://127.0.0.1:1"],"name":"m1","clientURLs":["http://127.0.0.1:2"]},` +
		`{"id":9,"peerURLs":["http://127.0.0.1:3"],"isLearner":true}]` + "\n"
	const id, plain, jsonType = "c1", "text/plain; charset=utf-8", "application/json"
	d := &desk{}
	b := answering(t, d)
	other := http.Header{}
	other.Set(headerCluster, "ff")
	for name, c := range map[string]struct {
		verb, path string
		header     http.Header
		body       string
		desk       desk
		status     int
		text       string
		content    string
		cluster    string
	}{
		"members":                         {"GET", "/members", nil, "", desk{members: two}, 200, list, jsonType, id},
		"no members":                      {"GET", "/members", nil, "", desk{}, 200, "[]\n", jsonType, id},
		"members posted":                  {"POST", "/members", nil, "", desk{}, 405, "Method Not Allowed\n", plain, ""},
		"versions":                        {"GET", "/version", nil, "", desk{versions: Versions{"3.7.3", "3.7.0", "3.7.0"}}, 200, `{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}`, jsonType, ""},
		"versions not known":              {"GET", "/version", nil, "", desk{versions: Versions{Server: "3.7.3"}}, 200, `{"etcdserver":"3.7.3","etcdcluster":"not_decided","storage":"unknown"}`, jsonType, ""},
		"versions posted":                 {"POST", "/version", nil, "", desk{}, 405, "Method Not Allowed\n", plain, ""},
		"downgraded":                      {"GET", "/downgrade/enabled", nil, "", desk{downgrade: true}, 200, "true", "text/plain", id},
		"not downgraded":                  {"GET", "/downgrade/enabled", nil, "", desk{}, 200, "false", "text/plain", id},
		"downgrade not known":             {"GET", "/downgrade/enabled", nil, "", desk{err: errors.New("no leader")}, 500, "failed linearized read: no leader\n", plain, id},
		"downgrade posted":                {"POST", "/downgrade/enabled", nil, "", desk{}, 405, "Method Not Allowed\n", plain, ""},
		"hash":                            {"GET", "/members/hashkv", nil, `{"revision":4}`, desk{hash: Hash{Hash: 7, Revision: 9, Compacted: -1}}, 200, `{"header":{"revision":9},"hash":7,"compact_revision":-1,"hash_revision":4}`, jsonType, id},
		"hash of a cluster":               {"GET", "/members/hashkv", introduction(0xa), `{}`, desk{hash: Hash{Hash: 7, Revision: 9}}, 200, `{"header":{"revision":9},"hash":7}`, jsonType, id},
		"hash of another cluster":         {"GET", "/members/hashkv", other, `{}`, desk{}, 412, "cluster ID mismatch\n", plain, ""},
		"hash of nothing":                 {"GET", "/members/hashkv", nil, "", desk{}, 400, "error unmarshalling request\n", plain, ""},
		"hash of too much":                {"GET", "/members/hashkv", nil, strings.Repeat("x", 100<<10), desk{}, 400, "error reading body\n", plain, ""},
		"hash compacted":                  {"GET", "/members/hashkv", nil, "{}", desk{err: wrapped(mvcc.ErrCompacted)}, 400, "mvcc: required revision has been compacted\n", plain, ""},
		"hash of the future":              {"GET", "/members/hashkv", nil, "{}", desk{err: wrapped(mvcc.ErrFuture)}, 400, "mvcc: required revision is a future revision\n", plain, ""},
		"hash broken":                     {"GET", "/members/hashkv", nil, "{}", desk{err: errors.New("oh")}, 400, "oh\n", plain, ""},
		"hash posted":                     {"POST", "/members/hashkv", nil, "{}", desk{}, 405, "Method Not Allowed\n", plain, ""},
		"promote":                         {"POST", "/members/promote/9", nil, "", desk{members: two}, 200, list, jsonType, id},
		"promote, asked for":              {"GET", "/members/promote/9", nil, "", desk{}, 405, "Method Not Allowed\n", plain, ""},
		"promote nobody":                  {"POST", "/members/promote/zz", nil, "", desk{}, 404, "member zz not found in cluster\n", plain, id},
		"promote a stranger":              {"POST", "/members/promote/9", nil, "", desk{err: wrapped(member.ErrNotFound)}, 404, "membership: ID not found\n", plain, id},
		"promote a voter":                 {"POST", "/members/promote/9", nil, "", desk{err: wrapped(member.ErrNotLearner)}, 412, "membership: can only promote a learner member\n", plain, id},
		"promote too early":               {"POST", "/members/promote/9", nil, "", desk{err: wrapped(ErrNotReady)}, 412, "etcdserver: can only promote a learner member which is in sync with leader\n", plain, id},
		"promote in vain":                 {"POST", "/members/promote/9", nil, "", desk{err: errors.New("oh")}, 500, `{"message":"Internal Server Error"}`, jsonType, id},
		"renew":                           {"POST", "/leases", nil, "\x08\x05", desk{ttl: 3}, 200, "\x10\x05\x18\x03", "application/protobuf", ""},
		"renew nonsense":                  {"POST", "/leases", nil, "\xff", desk{}, 400, "error unmarshalling request\n", plain, ""},
		"renew too much":                  {"POST", "/leases", nil, strings.Repeat("\x08", 64<<10+1), desk{}, 413, "request body too large\n", plain, ""},
		"renew, asked for":                {"GET", "/leases", nil, "", desk{}, 405, "Method Not Allowed\n", plain, ""},
		"renew what is not there":         {"POST", "/leases", nil, "\x08\x05", desk{err: wrapped(lease.ErrNotFound)}, 404, "lease not found\n", plain, ""},
		"renew behind":                    {"POST", "/leases", nil, "\x08\x05", desk{err: wrapped(ErrBehind)}, 408, "waiting for node to catch up its applied index has timed out\n", plain, ""},
		"renew at a follower":             {"POST", "/leases", nil, "\x08\x05", desk{err: wrapped(ErrNotLeader)}, 400, "not a primary lessor\n", plain, ""},
		"renew in vain":                   {"POST", "/leases", nil, "\x08\x05", desk{err: errors.New("oh")}, 400, "oh\n", plain, ""},
		"time to live":                    {"POST", "/leases/internal", nil, "\x0a\x02\x08\x05", desk{ttl: 3}, 200, "\x0a\x08\x0a\x00\x10\x05\x18\x03\x20\x06", "application/protobuf", ""},
		"time to live with keys":          {"POST", "/leases/internal", nil, "\x0a\x04\x08\x05\x10\x01", desk{ttl: 3}, 200, "\x0a\x0b\x0a\x00\x10\x05\x18\x03\x20\x06\x2a\x01k", "application/protobuf", ""},
		"time to live, nonsense":          {"POST", "/leases/internal", nil, "\x0a\x09", desk{}, 400, "error unmarshalling request\n", plain, ""},
		"time to live, nonsense inside":   {"POST", "/leases/internal", nil, "\x0a\x01\xff", desk{}, 400, "error unmarshalling request\n", plain, ""},
		"time to live, asked for":         {"GET", "/leases/internal", nil, "", desk{}, 405, "Method Not Allowed\n", plain, ""},
		"time to live of what is not":     {"POST", "/leases/internal", nil, "\x0a\x02\x08\x05", desk{err: wrapped(lease.ErrNotFound)}, 404, "lease not found\n", plain, ""},
		"time to live behind":             {"POST", "/leases/internal", nil, "\x0a\x02\x08\x05", desk{err: wrapped(ErrBehind)}, 408, "waiting for node to catch up its applied index has timed out\n", plain, ""},
		"time to live at a late follower": {"POST", "/leases/internal", nil, "\x0a\x02\x08\x05", desk{err: wrapped(ErrNotLeader)}, 500, "not a primary lessor\n", plain, ""},
	} {
		*d = c.desk
		status, header, text := request(t, c.verb, b.url+c.path, c.header, strings.NewReader(c.body))
		if status != c.status || text != c.text || header.Get("Content-Type") != c.content || header.Get(headerCluster) != c.cluster {
			t.Errorf("%s: %d %q %q %q; want %d %q %q %q", name, status, text, header.Get("Content-Type"), header.Get(headerCluster),
				c.status, c.text, c.content, c.cluster)
		}
		allow := map[string]string{"GET": "POST", "POST": "GET"}[c.verb]
		if strings.HasPrefix(c.path, "/leases") {
			allow = ""
		}
		if status == 405 && header.Get("Allow") != allow {
			t.Errorf("%s: Allow is %q", name, header.Get("Allow"))
		}
	}
}

func TestTheClientUnderstandsTheDesk(t *testing.T) {
	d := &desk{
		members:  []member.Member{{ID: 5, PeerURLs: []string{"http://127.0.0.1:1"}, Name: "m"}},
		versions: Versions{Server: "3.7.3"}, hash: Hash{Hash: 7, Revision: 9, Compacted: -1}, ttl: 3, downgrade: true,
	}
	b := answering(t, d)
	c := NewClient(ClientOptions{})
	defer c.Close()
	ctx := t.Context()
	urls := []string{"http://127.0.0.1:1", b.url + "/"} // nobody is at the first
	cluster, members, err := c.Members(ctx, b.url)
	if err != nil || cluster != testCluster || len(members) != 1 || members[0].Name != "m" {
		t.Errorf("members are %v, %v, %v", cluster, members, err)
	}
	if v, err := c.Versions(ctx, b.url); err != nil || v != d.versions {
		t.Errorf("versions are %v, %v", v, err)
	}
	if enabled, err := c.DowngradeEnabled(ctx, b.url); err != nil || !enabled {
		t.Errorf("downgrade is %v, %v", enabled, err)
	}
	if h, err := c.HashKV(ctx, urls, testCluster, 4); err != nil || h != (Hash{7, 9, -1, 4}) {
		t.Errorf("the hash is %v, %v", h, err)
	}
	if m, err := c.Promote(ctx, urls, 5, "secret"); err != nil || len(m) != 1 || d.token != "secret" {
		t.Errorf("promoted: %v, %v, with token %q", m, err, d.token)
	}
	if ttl, err := c.Renew(ctx, urls, 5); err != nil || ttl != 3 {
		t.Errorf("renewed: %d, %v", ttl, err)
	}
	if left, err := c.TimeToLive(ctx, urls, 5, true); err != nil ||
		!proto.Equal(left, &pb.LeaseTimeToLiveResponse{Header: &pb.ResponseHeader{}, ID: 5, TTL: 3, GrantedTTL: 6, Keys: [][]byte{[]byte("k")}}) {
		t.Errorf("time to live: %v, %v", left, err)
	}
	if _, err := c.HashKV(ctx, urls, 0xff, 4); !errors.Is(err, ErrMismatch) {
		t.Errorf("hash of another cluster: %v", err)
	}
}

func TestTheClientTellsErrorsApart(t *testing.T) {
	d := &desk{}
	b := answering(t, d)
	c, ctx, urls := b.Client(), t.Context(), []string{b.url, "http://127.0.0.1:1"}
	ask := map[string]func() error{
		"hash":         func() error { _, err := c.HashKV(ctx, urls, testCluster, 0); return err },
		"promote":      func() error { _, err := c.Promote(ctx, urls, 5, ""); return err },
		"renew":        func() error { _, err := c.Renew(ctx, urls[:1], 5); return err },
		"time to live": func() error { _, err := c.TimeToLive(ctx, urls[:1], 5, false); return err },
	}
	for what, sentinels := range map[string][]error{
		"hash":         {mvcc.ErrCompacted, mvcc.ErrFuture},
		"promote":      {member.ErrNotFound, member.ErrNotLearner, ErrNotReady},
		"renew":        {lease.ErrNotFound, ErrBehind, ErrNotLeader},
		"time to live": {lease.ErrNotFound, ErrBehind, ErrNotLeader},
	} {
		for _, want := range sentinels {
			d.err = wrapped(want)
			if err := ask[what](); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", what, err, want)
			}
		}
		d.err = errors.New("another one")
		if err := ask[what](); err == nil || slices.ContainsFunc(sentinels, func(s error) bool { return errors.Is(err, s) }) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := c.DowngradeEnabled(ctx, b.url); err == nil {
		t.Error("a downgrade that is not known is none")
	}
}

// TestTheClientTakesNoNonsense has a server that answers everything in one way.
func TestTheClientTakesNoNonsense(t *testing.T) {
	c, ctx := NewClient(ClientOptions{}), t.Context()
	defer c.Close()
	for name, answer := range map[string]http.HandlerFunc{
		"nothing":    func(http.ResponseWriter, *http.Request) {},
		"nonsense":   func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("\xff{")) },
		"a redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
		"an error":   func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "oh", http.StatusTeapot) },
		"no end": func(w http.ResponseWriter, _ *http.Request) {
			for piece := make([]byte, 1<<20); ; {
				if _, err := w.Write(piece); err != nil {
					return
				}
			}
		},
		"a cut": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		server := httptest.NewServer(answer)
		defer server.Close()
		url, urls := server.URL, []string{server.URL}
		for what, ask := range map[string]func() error{
			"members":      func() error { _, _, err := c.Members(ctx, url); return err },
			"versions":     func() error { _, err := c.Versions(ctx, url); return err },
			"downgrade":    func() error { _, err := c.DowngradeEnabled(ctx, url); return err },
			"hash":         func() error { _, err := c.HashKV(ctx, urls, testCluster, 0); return err },
			"promote":      func() error { _, err := c.Promote(ctx, urls, 5, ""); return err },
			"renew":        func() error { _, err := c.Renew(ctx, urls, 5); return err },
			"time to live": func() error { _, err := c.TimeToLive(ctx, urls, 5, false); return err },
		} {
			if name == "no end" && what != "versions" && what != "renew" {
				continue // it takes its time
			}
			if ask() == nil {
				t.Errorf("%s: %s was taken for an answer", what, name)
			}
		}
	}
	if _, err := c.Promote(ctx, nil, 5, ""); err == nil {
		t.Error("nobody promotes")
	}
}
