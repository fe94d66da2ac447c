package member

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"kvd/internal/store"
)

// Both were written by the same etcd 3.7.3: its file after it was stopped, and
// its last snapshot of the log. store/testdata/README.md says what it had been
// through.
const (
	etcdFile = "testdata/etcd-3.7.3.db.gz"
	etcdSnap = "testdata/etcd-3.7.3.snap.gz"
)

func unpack(t *testing.T, name string) []byte {
	t.Helper()
	packed, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	z, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// etcdReader opens etcd's file.
func etcdReader(t *testing.T) store.Reader {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, unpack(t, etcdFile), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := store.Open(path, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := f.Read()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); f.Close() })
	return r
}

// TestRowsAreByteForByteEtcds plays again, on a fresh book, what that etcd had
// been through, and compares all rows.
func TestRowsAreByteForByteEtcds(t *testing.T) {
	theirs := etcdReader(t)
	loaded, err := Load(theirs)
	if err != nil {
		t.Fatal(err)
	}
	if len(loaded.Members()) != 2 || len(loaded.View().RemovedIDs()) != 1 || loaded.ClusterVersion() != (Version{3, 7, 0}) {
		t.Fatalf("etcd's file holds\n%s", show(loaded.View()))
	}
	voter, learner := loaded.Members()[0], loaded.Members()[1]
	if learner.Learner == voter.Learner {
		t.Fatalf("etcd's file holds\n%s", show(loaded.View()))
	}
	if voter.Learner {
		voter, learner = learner, voter
	}
	if want := NewID([]string{"http://127.0.0.1:32380"}, "tok1"); voter.ID != want {
		t.Errorf("the voter is %s, want %s", voter.ID, want)
	}
	gone := Member{ID: loaded.View().RemovedIDs()[0], PeerURLs: []string{"http://gone:1"}, Learner: true}

	s := &scene{t: t, mem: store.NewMem()}
	s.reload()
	var rows store.Batch
	for _, c := range []Change{
		{Type: raftpb.ConfChangeAddNode, ID: voter.ID, Member: Member{ID: voter.ID, PeerURLs: voter.PeerURLs, Name: "m1"}},
		{Type: raftpb.ConfChangeAddLearnerNode, ID: gone.ID, Member: gone},
		{Type: raftpb.ConfChangeRemoveNode, ID: gone.ID},
		{Type: raftpb.ConfChangeAddLearnerNode, ID: learner.ID, Member: learner},
	} {
		if out := s.change(c, &rows); out != "" {
			t.Fatal(out)
		}
	}
	if err := s.book.SetAttributes(voter.ID, "m1", []string{"http://127.0.0.1:32379"}, &rows); err != nil {
		t.Fatal(err)
	}
	s.book.SetVersion(Version{3, 7, 0}, &rows)
	s.book.SetDowngrade(Downgrade{Target: "3.6.0", Enabled: true}, &rows)
	s.book.SetDowngrade(Downgrade{}, &rows)
	if err := s.mem.Commit(store.Stamp{}, &rows); err != nil {
		t.Fatal(err)
	}
	ours := s.reader()
	for _, bucket := range []store.Bucket{store.Members, store.MembersRemoved, store.Cluster} {
		compare(t, bucket, theirs, ours)
		compare(t, bucket, ours, theirs)
	}
	confState := []byte(confStateKey)
	if got, want := ours.Value(store.Meta, confState), theirs.Value(store.Meta, confState); !bytes.Equal(got, want) {
		t.Errorf("confState is %s, etcd's %s", got, want)
	}
}

// compare reports the rows of a that b has not.
func compare(t *testing.T, bucket store.Bucket, a, b store.Reader) {
	t.Helper()
	a.Scan(bucket, nil, nil, func(key, value []byte) bool {
		if other := b.Value(bucket, key); !bytes.Equal(value, other) {
			t.Errorf("%s/%s: %s against %s", bucket, key, value, other)
		}
		return true
	})
}

// TestTreeIsByteForByteEtcds compares with the data of a real snapshot of the
// log. etcd writes the members in the order of a map; this snapshot is one of
// those that came out by ID.
func TestTreeIsByteForByteEtcds(t *testing.T) {
	want := snapshotData(t)
	b, err := Load(etcdReader(t))
	if err != nil {
		t.Fatal(err)
	}
	if got := b.Tree(); !bytes.Equal(got, want) {
		t.Errorf("wrote\n%.2500s\netcd\n%.2500s", got, want)
	}
}

// snapshotData takes the data out of the envelope and the raft snapshot in it.
func snapshotData(t *testing.T) []byte {
	t.Helper()
	envelope := unpack(t, etcdSnap)
	for len(envelope) > 0 {
		field, kind, n := protowire.ConsumeTag(envelope)
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		size := protowire.ConsumeFieldValue(field, kind, envelope[n:])
		if size < 0 {
			t.Fatal(protowire.ParseError(size))
		}
		if field == 2 {
			inner, _ := protowire.ConsumeBytes(envelope[n:])
			var snapshot raftpb.Snapshot
			if err := proto.Unmarshal(inner, &snapshot); err != nil {
				t.Fatal(err)
			}
			return snapshot.GetData()
		}
		envelope = envelope[n+size:]
	}
	t.Fatal("no data in the envelope")
	return nil
}

func TestTreeOfManyMembersStaysReadable(t *testing.T) {
	s := &scene{t: t, mem: store.NewMem()}
	s.reload()
	var rows store.Batch
	for id := ID(1); id <= 1500; id++ { // more than the ring of events holds
		s.change(Change{Type: raftpb.ConfChangeAddNode, ID: id, Member: Member{ID: id, PeerURLs: []string{id.String()}}}, &rows)
	}
	var d dump
	if err := json.Unmarshal(s.book.Tree(), &d); err != nil {
		t.Fatal(err)
	}
	members := d.Root.Children["0"].Children["members"]
	if len(members.Children) != 1500 || members.Children["5dc"].Children["raftAttributes"].Value != `{"peerURLs":["5dc"]}` {
		t.Errorf("%d members", len(members.Children))
	}
	h := d.WatcherHub.EventHistory
	if q := h.Queue; q.Size != 1000 || q.Front != 500 || q.Back != 500 || len(q.Events) != 1000 || h.StartIndex != 501 || h.LastIndex != 1500 {
		t.Errorf("ring of %d, from %d to %d, holds %d to %d", q.Size, q.Front, q.Back, h.StartIndex, h.LastIndex)
	}
}
