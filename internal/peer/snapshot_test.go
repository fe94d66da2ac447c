package peer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/member"
	"kvd/internal/store"
)

// image is a copy of a store with so many MiB in it.
func image(t *testing.T, mib int) *store.Copy {
	t.Helper()
	f, err := store.Open(filepath.Join(t.TempDir(), "db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Errorf("the store does not close: %v", err)
		}
	})
	rows := &store.Batch{}
	for i := range mib {
		rows.Put(store.Key, fmt.Appendf(nil, "%08d", i), bytes.Repeat([]byte{byte(i)}, 1<<20))
	}
	if err := f.Commit(store.Stamp{Index: 7, Term: 1}, rows); err != nil {
		t.Fatal(err)
	}
	c, err := f.Copy()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func snapshotMessage(from, to member.ID) *raftpb.Message {
	return &raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), From: ptr(uint64(from)), To: ptr(uint64(to)), Term: ptr(uint64(1)),
		Snapshot: &raftpb.Snapshot{Data: []byte("members"), Metadata: &raftpb.SnapshotMetadata{Index: ptr(uint64(7)), Term: ptr(uint64(1))}},
	}
}

func TestSnapshotsArriveWhole(t *testing.T) {
	a, b := newStation(t, 0xa), newStation(t, 0xb)
	c := image(t, 5)
	var want, got bytes.Buffer
	if _, err := c.WriteTo(&want); err != nil {
		t.Fatal(err)
	}
	began := make(chan struct{})
	goOn := make(chan struct{})
	b.ear.receive = func(_ context.Context, m *raftpb.Message, image io.Reader) error {
		close(began)
		<-goOn
		_, err := io.Copy(&got, image)
		if string(m.GetSnapshot().GetData()) != "members" {
			err = errors.Join(err, errors.New("another message"))
		}
		return err
	}
	acquaint(t, a, b)
	a.SendSnapshot(snapshotMessage(0xa, 0xb), c)
	<-began
	a.SendSnapshot(snapshotMessage(0xa, 0xb), image(t, 1)) // while the first is on its way
	if fates := a.ear.fates(); !slices.Equal(fates, []bool{false}) {
		t.Errorf("the fates of snapshots are %v", fates)
	}
	if n := a.metric("etcd_network_snapshot_send_inflights_total", "b"); n != 1 {
		t.Errorf("%v are in flight", n)
	}
	close(goOn)
	eventually(t, "raft was told", func() bool { return slices.Equal(a.ear.fates(), []bool{false, true}) })
	if !bytes.Equal(got.Bytes(), want.Bytes()) {
		t.Errorf("%d bytes have come, of %d", got.Len(), want.Len())
	}
	for s, names := range map[*station][]string{
		a: {"etcd_network_snapshot_send_success", "etcd_network_snapshot_send_total_duration_seconds"},
		b: {"etcd_network_snapshot_receive_success", "etcd_network_snapshot_receive_total_duration_seconds"},
	} {
		other := map[*station]string{a: "b", b: "a"}[s]
		for _, name := range names {
			eventually(t, name+" is 1", func() bool { return s.metric(name, other) == 1 })
		}
	}
}

func TestSnapshotsThatFailAreReported(t *testing.T) {
	for name, c := range map[string]struct {
		receive func(b *station) func(context.Context, *raftpb.Message, io.Reader) error
	}{
		"the receiver cannot save it": {func(*station) func(context.Context, *raftpb.Message, io.Reader) error {
			return func(context.Context, *raftpb.Message, io.Reader) error { return errors.New("the disk is full") }
		}},
		"the receiver dies": {func(b *station) func(context.Context, *raftpb.Message, io.Reader) error {
			return func(_ context.Context, _ *raftpb.Message, image io.Reader) error {
				if _, err := io.CopyN(io.Discard, image, 1<<20); err != nil {
					return err
				}
				b.server.Close()
				_, err := io.Copy(io.Discard, image)
				return err
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newStation(t, 0xa), newStation(t, 0xb)
			b.ear.receive = c.receive(b)
			acquaint(t, a, b)
			a.SendSnapshot(snapshotMessage(0xa, 0xb), image(t, 20))
			eventually(t, "raft was told", func() bool { return slices.Equal(a.ear.fates(), []bool{false}) })
			if n := a.metric("etcd_network_snapshot_send_failures", "b"); n != 1 {
				t.Errorf("%v failures are counted", n)
			}
		})
	}
}

func TestASnapshotEndsWithItsSender(t *testing.T) {
	a, b := newStation(t, 0xa), newStation(t, 0xb)
	result := make(chan error, 1)
	b.ear.receive = func(_ context.Context, _ *raftpb.Message, image io.Reader) error {
		if _, err := io.CopyN(io.Discard, image, 1<<20); err != nil {
			return err
		}
		a.stop()
		<-a.ended
		_, err := io.Copy(io.Discard, image)
		result <- err
		return err
	}
	acquaint(t, a, b)
	a.SendSnapshot(snapshotMessage(0xa, 0xb), image(t, 20))
	if err := <-result; err == nil {
		t.Error("half of a snapshot was taken for the whole")
	}
	if b.end() != nil {
		t.Error("Run failed")
	}
}

// TestABrokenTransferIsAnError cuts the request in the middle, and then lets it
// stall there.
func TestABrokenTransferIsAnError(t *testing.T) {
	for _, stall := range []bool{false, true} {
		b := newStation(t, 0xb)
		result := make(chan error, 1)
		b.ear.receive = func(_ context.Context, _ *raftpb.Message, image io.Reader) error {
			_, err := io.Copy(io.Discard, image)
			result <- err
			return err
		}
		conn, err := net.Dial("tcp", b.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		head, err := frames{}.message(nil, snapshotMessage(0xa, 0xb))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /raft/snapshot HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n")
		introduction(0xa).Write(conn)
		fmt.Fprintf(conn, "\r\n%x\r\n%s\r\n1000\r\nnot as much", len(head), head)
		if !stall {
			conn.Close()
		}
		if err := <-result; err == nil {
			t.Errorf("stall %v: a part was taken for the whole", stall)
		}
	}
}

func TestSnapshotPostsAreChecked(t *testing.T) {
	b := newStation(t, 0xb)
	b.Follow(viewOf(t, []member.Member{b.member(), {ID: 0xa, PeerURLs: []string{"http://127.0.0.1:1"}}, {ID: 0xd, PeerURLs: []string{"http://127.0.0.1:2"}}}, 0xd))
	b.ear.receive = func(context.Context, *raftpb.Message, io.Reader) error { return errors.New("no room") }
	body := func(m *raftpb.Message) []byte {
		head, err := frames{}.message(nil, m)
		if err != nil {
			t.Fatal(err)
		}
		return append(head, "image"...)
	}
	other := introduction(0xa)
	other.Set(headerCluster, "ff")
	for name, c := range map[string]struct {
		verb   string
		header http.Header
		body   []byte
		status int
		text   string
	}{
		"another method":   {http.MethodGet, introduction(0xa), nil, 405, "Method Not Allowed\n"},
		"another cluster":  {http.MethodPost, other, nil, 412, "cluster ID mismatch\n"},
		"no message":       {http.MethodPost, introduction(0xa), []byte("abc"), 400, "failed to decode raft message (unexpected EOF)\n"},
		"half a message":   {http.MethodPost, introduction(0xa), body(snapshotMessage(0xa, 0xb))[:20], 400, "failed to decode raft message (unexpected EOF)\n"},
		"a huge message":   {http.MethodPost, introduction(0xa), binary.BigEndian.AppendUint64(nil, 64<<20+1), 400, "failed to decode raft message (too large: 67108865 bytes, at most 67108864 are taken)\n"},
		"another message":  {http.MethodPost, introduction(0xa), body(heartbeat(0xa, 0xb, 1)), 400, "wrong raft message type\n"},
		"a removed sender": {http.MethodPost, introduction(0xd), body(snapshotMessage(0xd, 0xb)), 403, `{"message":"cannot process message from removed member"}`},
		"another receiver": {http.MethodPost, introduction(0xa), body(snapshotMessage(0xa, 0xc)), 412, "to field mismatch\n"},
		"no room":          {http.MethodPost, introduction(0xa), body(snapshotMessage(0xa, 0xb)), 500, "failed to save KV snapshot (no room)\n"},
	} {
		status, header, text := request(t, c.verb, b.url+"/raft/snapshot", c.header, bytes.NewReader(c.body))
		if status != c.status || text != c.text {
			t.Errorf("%s: %d %q, want %d %q", name, status, text, c.status, c.text)
		}
		if want := c.status != 405; (header.Get(headerCluster) == testCluster.String()) != want {
			t.Errorf("%s: the cluster ID is %q", name, header.Get(headerCluster))
		}
		if c.status != 403 && (header.Get("Content-Type") != "text/plain; charset=utf-8" || header.Get("X-Content-Type-Options") != "nosniff") {
			t.Errorf("%s: headers %v", name, header)
		}
	}
	if n := b.metric("etcd_network_snapshot_receive_failures", unknownSender); n != 2 {
		t.Errorf("%v failures of unknown senders are counted", n)
	}
	if len(b.log.lines("no room")) == 0 || strings.Contains(fmt.Sprint(b.log.lines()), "panic") {
		t.Error("the log does not say why")
	}
}
