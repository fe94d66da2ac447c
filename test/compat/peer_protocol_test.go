package compat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"
	"go.etcd.io/etcd/server/v3/etcdserver/api/snap"
	stats "go.etcd.io/etcd/server/v3/etcdserver/api/v2stats"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"kvd/internal/member"
	"kvd/internal/peer"
	"kvd/internal/store"
)

// The two members of the tests in this file: one has the transport of etcd 3.7.3,
// the other has kvd's.
const (
	etcdSide    member.ID        = 0x6f6027b3564e89d8
	kvdSide     member.ID        = 0x7689fd9fc688eed3
	removedOne  member.ID        = 0xd
	peerCluster member.ClusterID = 0xaa3e9fbe54ec35b6
)

// listener notes what either transport tells its raft.
type listener struct {
	dir string // for what kvd receives

	mu        sync.Mutex
	messages  []*raftpb.Message
	snapshots []bool
	removed   bool // the other side
}

func (l *listener) Process(_ context.Context, m *raftpb.Message) error { l.Deliver(m); return nil }
func (l *listener) ReportUnreachable(uint64)                           {}
func (l *listener) Unreachable(member.ID)                              {}
func (l *listener) Refused(member.ID)                                  {}

func (l *listener) Deliver(m *raftpb.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.messages = append(l.messages, m)
}

func (l *listener) IsIDRemoved(id uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.removed && id == uint64(kvdSide) || id == uint64(removedOne)
}

func (l *listener) ReportSnapshot(_ uint64, s raft.SnapshotStatus) {
	l.SnapshotSent(0, s == raft.SnapshotFinish)
}

func (l *listener) SnapshotSent(_ member.ID, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.snapshots = append(l.snapshots, ok)
}

func (l *listener) Receive(_ context.Context, m *raftpb.Message, image io.Reader) error {
	b, err := io.ReadAll(image)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(l.dir, "received"), b, 0o600); err != nil {
		return err
	}
	l.Deliver(m)
	return nil
}

func (l *listener) heard() []*raftpb.Message {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.messages)
}

func (l *listener) fates() []bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.snapshots)
}

// twoSides is a member of either kind, and the peer ports of both.
type twoSides struct {
	etcd       *rafthttp.Transport
	kvd        *peer.Transport
	etcdHears  *listener
	kvdHears   *listener
	etcdURL    string
	kvdURL     string
	etcdFailed chan error
	kvdEnded   chan error
}

func newTwoSides(t *testing.T) *twoSides {
	t.Helper()
	p := &twoSides{
		etcdHears: &listener{dir: t.TempDir()}, kvdHears: &listener{dir: t.TempDir()},
		etcdFailed: make(chan error, 1), kvdEnded: make(chan error, 1),
	}
	etcdServer, kvdServer := httptest.NewUnstartedServer(nil), httptest.NewUnstartedServer(nil)
	p.etcdURL, p.kvdURL = "http://"+etcdServer.Listener.Addr().String(), "http://"+kvdServer.Listener.Addr().String()
	p.etcd = &rafthttp.Transport{
		Logger: zap.NewNop(), DialTimeout: 2 * time.Second, ID: types.ID(etcdSide), URLs: types.MustNewURLs([]string{p.etcdURL}),
		ClusterID: types.ID(peerCluster), Raft: p.etcdHears, Snapshotter: snap.New(zap.NewNop(), p.etcdHears.dir),
		ServerStats: stats.NewServerStats("", ""), LeaderStats: stats.NewLeaderStats(zap.NewNop(), "1"), ErrorC: p.etcdFailed,
	}
	if err := p.etcd.Start(); err != nil {
		t.Fatal(err)
	}
	var err error
	p.kvd, err = peer.New(peer.Options{Member: kvdSide, Cluster: peerCluster, URLs: []string{p.kvdURL}}, peer.Parts{Raft: p.kvdHears})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() { p.kvdEnded <- p.kvd.Run(ctx) }()
	mux := http.NewServeMux()
	p.kvd.Routes(mux)
	p.kvd.Prepare(kvdServer.Config)
	etcdServer.Config.Handler, kvdServer.Config.Handler = p.etcd.Handler(), mux
	etcdServer.Start()
	kvdServer.Start()
	t.Cleanup(func() {
		stop()
		p.etcd.Stop()
		etcdServer.CloseClientConnections()
		etcdServer.Close()
		kvdServer.Close()
	})
	soon(t, "kvd's transport runs", func() bool {
		return strings.HasPrefix(p.ask(t, p.kvdURL, "POST", "/raft", nil, []byte{0xff}), "400")
	})
	return p
}

// view is the membership that kvd is told of.
func (p *twoSides) view(t *testing.T, removed ...member.ID) member.View {
	t.Helper()
	reader, err := store.NewMem().Read()
	if err != nil {
		t.Fatal(err)
	}
	book, err := member.Load(reader)
	if err != nil {
		t.Fatal(err)
	}
	for id, url := range map[member.ID]string{etcdSide: p.etcdURL, kvdSide: p.kvdURL, removedOne: "http://127.0.0.1:1"} {
		m := member.Member{ID: id, PeerURLs: []string{url}}
		book.Apply(member.Change{Type: raftpb.ConfChangeAddNode, ID: id, Member: m}, &store.Batch{})
	}
	for _, id := range append(removed, removedOne) {
		book.Apply(member.Change{Type: raftpb.ConfChangeRemoveNode, ID: id}, &store.Batch{})
	}
	return book.View()
}

func (p *twoSides) acquaint(t *testing.T) {
	t.Helper()
	p.etcd.AddPeer(types.ID(kvdSide), []string{p.kvdURL})
	p.kvd.Follow(p.view(t))
	soon(t, "both sides are connected", func() bool {
		return !p.etcd.ActiveSince(types.ID(kvdSide)).IsZero() && !p.kvd.ActiveSince(etcdSide).IsZero()
	})
}

func soon(t *testing.T, claim string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", claim)
		}
	}
}

// traffic is what a leader and its followers send, with all that raft puts into
// messages; the reject hint numbers them.
func traffic(r *rand.Rand, from, to member.ID, n int) []*raftpb.Message {
	p := func(v uint64) *uint64 { return &v }
	kinds := []raftpb.MessageType{
		raftpb.MsgProp, raftpb.MsgAppResp, raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp,
		raftpb.MsgTransferLeader, raftpb.MsgTimeoutNow, raftpb.MsgReadIndex, raftpb.MsgReadIndexResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp,
	}
	var all []*raftpb.Message
	term, index := uint64(1), uint64(0)
	for i := range n {
		m := &raftpb.Message{From: p(uint64(from)), To: p(uint64(to)), Commit: p(uint64(i))}
		all = append(all, m)
		if r.IntN(3) == 0 {
			m.Type, m.RejectHint = kinds[r.IntN(len(kinds))].Enum(), p(uint64(i))
			if r.IntN(2) == 0 {
				reject := r.IntN(2) == 0
				m.Term, m.Reject, m.Context = p(term), &reject, noise(r, 8)
			}
			if *m.Type == raftpb.MsgProp || *m.Type == raftpb.MsgReadIndex {
				m.Entries = []*raftpb.Entry{{Data: noise(r, r.IntN(5000))}}
			}
			continue
		}
		m.Type, m.LogTerm, m.Index = raftpb.MsgApp.Enum(), p(term), p(index)
		if r.IntN(10) == 0 {
			term++
		}
		m.Term = p(term)
		for range r.IntN(4) {
			index++
			m.Entries = append(m.Entries, &raftpb.Entry{Term: p(term), Index: p(index), Data: noise(r, r.IntN(3000))})
		}
	}
	return all
}

func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// compare wants the same messages on the other side, each kind of stream in its
// order.
func compare(t *testing.T, sent []*raftpb.Message, by *listener) {
	t.Helper()
	soon(t, "all messages have come", func() bool { return len(by.heard()) >= len(sent) })
	byKind := func(all []*raftpb.Message) (apps, props, rest []*raftpb.Message) {
		for _, m := range all {
			switch m.GetType() {
			case raftpb.MsgApp:
				apps = append(apps, m)
			case raftpb.MsgProp: // etcd has a queue for them
				props = append(props, m)
			default:
				rest = append(rest, m)
			}
		}
		return apps, props, rest
	}
	wantApps, wantProps, wantRest := byKind(sent)
	gotApps, gotProps, gotRest := byKind(by.heard())
	for _, c := range [][2][]*raftpb.Message{{wantApps, gotApps}, {wantProps, gotProps}, {wantRest, gotRest}} {
		if len(c[0]) != len(c[1]) {
			t.Fatalf("%d messages of a kind have come, of %d", len(c[1]), len(c[0]))
		}
		for i := range c[0] {
			if !proto.Equal(c[0][i], c[1][i]) {
				t.Fatalf("sent %v\nread %v", c[0][i], c[1][i])
			}
		}
	}
}

func TestPeersOfBothKindsUnderstandEachOther(t *testing.T) {
	p := newTwoSides(t)
	p.acquaint(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	// Streams may not be open yet on both sides; what is posted may overtake.
	p.settle(t)
	const n = 1500
	toEtcd, toKvd := traffic(r, kvdSide, etcdSide, n), traffic(r, etcdSide, kvdSide, n)
	for i := 0; i < n; i += 50 {
		p.kvd.Send(toEtcd[i : i+50])
		p.etcd.Send(toKvd[i : i+50])
	}
	compare(t, toEtcd, p.etcdHears)
	compare(t, toKvd, p.kvdHears)
}

// settle sends until nothing is posted any more, and forgets it.
func (p *twoSides) settle(t *testing.T) {
	t.Helper()
	probe := func(from, to member.ID, index uint64) *raftpb.Message {
		f, o := uint64(from), uint64(to)
		return &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: &f, To: &o, Index: &index}
	}
	for i := range uint64(3) {
		p.kvd.Send([]*raftpb.Message{probe(kvdSide, etcdSide, i)})
		p.etcd.Send([]*raftpb.Message{probe(etcdSide, kvdSide, i)})
		soon(t, "a message has come each way", func() bool {
			return len(p.etcdHears.heard()) > int(i) && len(p.kvdHears.heard()) > int(i)
		})
		time.Sleep(50 * time.Millisecond) // the other stream may lag; etcd tells of none
	}
	for _, l := range []*listener{p.etcdHears, p.kvdHears} {
		l.mu.Lock()
		l.messages = nil
		l.mu.Unlock()
	}
}

// TestPeersPostToWhoIsNotKnown has both sides send before the other knows them.
func TestPeersPostToWhoIsNotKnown(t *testing.T) {
	for _, knows := range []string{"etcd", "kvd"} {
		t.Run(knows+" knows the other", func(t *testing.T) {
			p := newTwoSides(t)
			r := rand.New(rand.NewPCG(1, 0))
			toEtcd, toKvd := traffic(r, kvdSide, etcdSide, 1), traffic(r, etcdSide, kvdSide, 1)
			if knows == "etcd" {
				p.etcd.AddPeer(types.ID(kvdSide), []string{p.kvdURL})
				p.etcd.Send(toKvd)
				compare(t, toKvd, p.kvdHears)
				p.kvd.Send(toEtcd)
				compare(t, toEtcd, p.etcdHears)
				return
			}
			p.kvd.Follow(p.view(t))
			p.kvd.Send(toEtcd)
			compare(t, toEtcd, p.etcdHears)
			p.etcd.Send(toKvd)
			compare(t, toKvd, p.kvdHears)
		})
	}
}

func snapshotFor(from, to member.ID) *raftpb.Message {
	f, o, index, term := uint64(from), uint64(to), uint64(7), uint64(2)
	return &raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), From: &f, To: &o, Term: &term,
		Snapshot: &raftpb.Snapshot{Data: []byte("{}"), Metadata: &raftpb.SnapshotMetadata{Index: &index, Term: &term, ConfState: &raftpb.ConfState{Voters: []uint64{f, o}}}},
	}
}

func TestPeersOfBothKindsExchangeSnapshots(t *testing.T) {
	p := newTwoSides(t)
	p.acquaint(t)
	f, err := store.Open(filepath.Join(t.TempDir(), "db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows := &store.Batch{}
	for i := range 3 {
		rows.Put(store.Key, fmt.Appendf(nil, "%d", i), bytes.Repeat([]byte{byte(i)}, 1<<20))
	}
	if err := f.Commit(store.Stamp{Index: 7, Term: 2}, rows); err != nil {
		t.Fatal(err)
	}
	image, err := f.Copy()
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if _, err := image.WriteTo(&want); err != nil {
		t.Fatal(err)
	}
	p.kvd.SendSnapshot(snapshotFor(kvdSide, etcdSide), image)
	soon(t, "etcd has taken it", func() bool { return slices.Equal(p.kvdHears.fates(), []bool{true}) })
	got, err := os.ReadFile(filepath.Join(p.etcdHears.dir, fmt.Sprintf("%016x.snap.db", 7)))
	if err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("etcd has saved %d bytes of %d: %v", len(got), want.Len(), err)
	}
	compare(t, []*raftpb.Message{snapshotFor(kvdSide, etcdSide)}, p.etcdHears)

	p.etcd.SendSnapshot(etcdSnapshot(want.Bytes()))
	soon(t, "kvd has taken it", func() bool { return slices.Equal(p.etcdHears.fates(), []bool{true}) })
	got, err = os.ReadFile(filepath.Join(p.kvdHears.dir, "received"))
	if err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("kvd has saved %d bytes of %d: %v", len(got), want.Len(), err)
	}
	compare(t, []*raftpb.Message{snapshotFor(etcdSide, kvdSide)}, p.kvdHears)
}

func etcdSnapshot(image []byte) *snap.Message {
	return snap.NewMessage(snapshotFor(etcdSide, kvdSide), io.NopCloser(bytes.NewReader(image)), int64(len(image)))
}

func TestPeersOfBothKindsLearnThatTheyAreRemoved(t *testing.T) {
	t.Run("kvd", func(t *testing.T) {
		p := newTwoSides(t)
		p.acquaint(t)
		p.etcdHears.mu.Lock()
		p.etcdHears.removed = true
		p.etcdHears.mu.Unlock()
		p.etcd.RemovePeer(types.ID(kvdSide))
		if err := <-p.kvdEnded; !errors.Is(err, peer.ErrRemoved) {
			t.Errorf("Run returned %v", err)
		}
	})
	t.Run("etcd", func(t *testing.T) {
		p := newTwoSides(t)
		p.acquaint(t)
		p.kvd.Follow(p.view(t, etcdSide))
		if err := <-p.etcdFailed; !strings.Contains(err.Error(), "removed") {
			t.Errorf("etcd says %v", err)
		}
	})
}

// TestPeerPortsAnswerAlike sends the same requests to both sides. What etcd
// answers with a panic is not among them.
func TestPeerPortsAnswerAlike(t *testing.T) {
	p := newTwoSides(t)
	p.acquaint(t)
	for name, c := range map[string]struct {
		verb, path string
		change     []string // of headers
		body       []byte
	}{
		"stream, another method":     {"POST", "/raft/stream/message/1", nil, nil},
		"stream, too old":            {"GET", "/raft/stream/message/1", []string{"X-Server-Version", "2.3.0"}, nil},
		"stream, no version":         {"GET", "/raft/stream/message/1", []string{"X-Server-Version", ""}, nil},
		"stream, newer minimum":      {"GET", "/raft/stream/message/1", []string{"X-Min-Cluster-Version", "3.8.0"}, nil},
		"stream, another cluster":    {"GET", "/raft/stream/message/1", []string{"X-Etcd-Cluster-Id", "1"}, nil},
		"stream, cluster with zeros": {"GET", "/raft/stream/message/1", []string{"X-Etcd-Cluster-Id", "0" + peerCluster.String()}, nil},
		"stream of another kind":     {"GET", "/raft/stream/other/1", nil, nil},
		"stream of old":              {"GET", "/raft/stream/msgappv2/1", nil, nil},
		"stream without an ID":       {"GET", "/raft/stream/message/xyz", nil, nil},
		"stream for a stranger":      {"GET", "/raft/stream/message/1", nil, nil},
		"stream for a removed one":   {"GET", "/raft/stream/message/d", nil, nil},
		"streams":                    {"GET", "/raft/stream", nil, nil},
		"streams/":                   {"GET", "/raft/stream/", nil, nil},
		"post, another method":       {"PUT", "/raft", nil, nil},
		"post, too old":              {"POST", "/raft", []string{"X-Server-Version", "2.9.9"}, nil},
		"post, another cluster":      {"POST", "/raft", []string{"X-Etcd-Cluster-Id", ""}, nil},
		"post of nonsense":           {"POST", "/raft", nil, []byte{0xff}},
		"snapshot, another method":   {"GET", "/raft/snapshot", nil, nil},
		"snapshot, another cluster":  {"POST", "/raft/snapshot", []string{"X-Etcd-Cluster-Id", "1"}, nil},
		"snapshot, another message":  {"POST", "/raft/snapshot", nil, []byte{0, 0, 0, 0, 0, 0, 0, 2, 8, 8}},
		"nothing":                    {"GET", "/raft/nothing", nil, nil},
		"probing/":                   {"GET", "/raft/probing/", nil, nil},
		"raft/":                      {"GET", "/raft/", nil, nil},
	} {
		etcd, kvd := p.ask(t, p.etcdURL, c.verb, c.path, c.change, c.body), p.ask(t, p.kvdURL, c.verb, c.path, c.change, c.body)
		if etcd != kvd {
			t.Errorf("%s: etcd answers\n%s\nkvd answers\n%s", name, etcd, kvd)
		}
	}
	for _, side := range []struct {
		url string
		id  member.ID // who reads from it
	}{{p.etcdURL, kvdSide}, {p.kvdURL, etcdSide}} {
		answer := p.ask(t, side.url, "GET", "/raft/stream/message/"+side.id.String(), []string{"X-Raft-To", "1"}, nil)
		if !strings.HasPrefix(answer, "412") || !strings.HasSuffix(answer, "to field mismatch\n") {
			t.Errorf("a stream for another one: %s", answer)
		}
	}
}

// ask sends a request of a stranger, and returns all of the answer that should be
// the same.
func (p *twoSides) ask(t *testing.T, url, verb, path string, change []string, body []byte) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), verb, url+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"X-Server-From": "1", "X-Server-Version": "3.7.3", "X-Min-Cluster-Version": "3.0.0", "X-Etcd-Cluster-Id": peerCluster.String(),
	} {
		r.Header.Set(name, value)
	}
	for i := 0; i < len(change); i += 2 {
		r.Header.Set(change[i], change[i+1])
	}
	answer, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	answer.Header.Del("Date")
	var head bytes.Buffer
	if err := answer.Header.Write(&head); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d\n%s\n%s", answer.StatusCode, head.String(), text)
}
