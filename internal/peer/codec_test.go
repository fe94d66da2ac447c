package peer

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

func ptr[T any](v T) *T { return &v }

func entry(term, index uint64, data string) *raftpb.Entry {
	e := &raftpb.Entry{Term: ptr(term), Index: ptr(index)}
	if data != "" {
		e.Data = []byte(data)
	}
	return e
}

func appended(term, logTerm, index, commit uint64, entries ...*raftpb.Entry) *raftpb.Message {
	return &raftpb.Message{
		Type: raftpb.MsgApp.Enum(), From: ptr(uint64(1)), To: ptr(uint64(2)),
		Term: ptr(term), LogTerm: ptr(logTerm), Index: ptr(index), Commit: ptr(commit), Entries: entries,
	}
}

// TestStreamsReadAsEtcdsDo has the bytes of both streams, as etcd 3.7.3 writes
// them.
func TestStreamsReadAsEtcdsDo(t *testing.T) {
	preVote := &raftpb.Message{
		Type: raftpb.MsgPreVoteResp.Enum(), To: ptr(uint64(0x7689fd9fc688eed3)),
		From: ptr(uint64(0x6f6027b3564e89d8)), Term: ptr(uint64(2)),
	}
	for name, c := range map[string]struct {
		kind     kind
		messages []*raftpb.Message // nil: a sign of life
		want     string
	}{
		"message": {everything, []*raftpb.Message{preVote, nil}, `
			0000000000000018 0812 10d3dda3b4fcb3ffc476 18d893bab2b5f689b06f 2002
			0000000000000002 0808`},
		"appends": {appends, []*raftpb.Message{
			appended(2, 1, 3, 3, entry(2, 4, "")),
			appended(2, 2, 4, 3, entry(2, 5, "x")),
			appended(2, 2, 5, 5),
			nil,
			appended(2, 2, 5, 6, entry(2, 6, "y"), entry(2, 7, "z")),
			appended(3, 2, 7, 7),
			appended(3, 3, 7, 8), // after a change of term without entries it goes on, too
		}, `
			02 0000000000000014 0803 1002 1801 2002 2801 3003 3a04 1002 1804 4003
			01 0000000000000001 0000000000000007 1002 1805 220178 0000000000000003
			01 0000000000000000 0000000000000005
			00
			01 0000000000000002 0000000000000007 1002 1806 220179 0000000000000007 1002 1807 22017a 0000000000000006
			02 000000000000000e 0803 1002 1801 2003 2802 3007 4007
			01 0000000000000000 0000000000000008`},
	} {
		t.Run(name, func(t *testing.T) {
			want := strings.Join(strings.Fields(c.want), "")
			var got []byte
			enc := c.kind.encoder()
			for _, m := range c.messages {
				if m == nil {
					got = enc.heartbeat(got)
					continue
				}
				var err error
				if got, err = enc.message(got, m); err != nil {
					t.Fatal(err)
				}
			}
			if hex.EncodeToString(got) != want {
				t.Errorf("wrote\n%x, want\n%s", got, want)
			}
			dec := c.kind.decoder(newSource(bytes.NewReader(got), 1<<20), 1, 2)
			for i, m := range c.messages {
				back, err := dec.next()
				if err != nil {
					t.Fatal(err)
				}
				if (m == nil) != (back == nil) || m != nil && !proto.Equal(m, back) {
					t.Errorf("message %d: read %v, want %v", i, back, m)
				}
			}
			if _, err := dec.next(); !errors.Is(err, io.EOF) {
				t.Errorf("at the end: %v", err)
			}
		})
	}
}

// someMessage is a message with any of the fields.
func someMessage(r *rand.Rand) *raftpb.Message {
	m := &raftpb.Message{}
	for _, field := range []**uint64{&m.To, &m.From, &m.Term, &m.LogTerm, &m.Index, &m.Commit, &m.RejectHint, &m.Vote} {
		if r.IntN(3) > 0 {
			*field = ptr(r.Uint64() >> r.IntN(64))
		}
	}
	if r.IntN(5) > 0 {
		m.Type = raftpb.MessageType(r.IntN(24)).Enum()
	}
	if r.IntN(2) == 0 {
		m.Reject = ptr(r.IntN(2) == 0)
	}
	if r.IntN(3) == 0 {
		m.Context = make([]byte, r.IntN(20))
	}
	if r.IntN(10) == 0 {
		m.Snapshot = &raftpb.Snapshot{Data: []byte("members"), Metadata: &raftpb.SnapshotMetadata{Index: ptr(uint64(7))}}
	}
	if r.IntN(10) == 0 {
		m.Responses = []*raftpb.Message{{To: ptr(uint64(9))}}
	}
	if r.IntN(10) == 0 {
		m.ProtoReflect().SetUnknown([]byte{0xf8, 0x01, 0x05}) // field 31
	}
	for range r.IntN(4) {
		e := &raftpb.Entry{}
		if r.IntN(4) > 0 {
			e.Term, e.Index = ptr(r.Uint64()>>r.IntN(64)), ptr(r.Uint64()>>r.IntN(64))
		}
		if r.IntN(2) == 0 {
			e.Type = raftpb.EntryType(r.IntN(3)).Enum()
		}
		if r.IntN(4) > 0 {
			e.Data = make([]byte, r.IntN(300))
		}
		if r.IntN(10) == 0 {
			e.ProtoReflect().SetUnknown([]byte{0xf8, 0x01, 0x05})
		}
		m.Entries = append(m.Entries, e)
	}
	return m
}

func TestMessagesAreEncodedAsPackageProtoDoes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 5000 {
		m := someMessage(r)
		want, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := appendMessage(nil, m)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%v: wrote %x (%v), want %x", m, got, err, want)
		}
		back, err := parseMessage(got)
		if err != nil || !proto.Equal(back, m) {
			t.Fatalf("%x: read %v (%v), want %v", got, back, err, m)
		}
	}
}

func TestOddMessagesLoseNothing(t *testing.T) {
	for name, text := range map[string]string{
		"a type that is not known":         "08ff01",
		"a type of the wrong kind":         "0a0101",
		"an entry type that is not known":  "3a0408091002",
		"entry data of the wrong kind":     "3a022005",
		"a field that is not known":        "f80105",
		"a number that is given twice":     "20012002",
		"a group":                          "7b7c",
		"a snapshot, empty":                "4a00",
		"an entry, empty":                  "3a00",
		"explicit zeros":                   "08001000180020002800300040005000",
		"a field of which the type is odd": "25010203042103040506070801ff",
	} {
		wire, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		want := &raftpb.Message{}
		wantErr := proto.Unmarshal(wire, want)
		got, err := parseMessage(wire)
		if (err != nil) != (wantErr != nil) || err == nil && !proto.Equal(got, want) {
			t.Errorf("%s: %v, %v; want %v, %v", name, got, err, want, wantErr)
		}
	}
}

func TestPartsBeyondTheLimitAreRefusedUnread(t *testing.T) {
	frame := binary.BigEndian.AppendUint64(nil, 101)
	for k, stream := range map[kind][]byte{
		everything: frame,
		appends:    append(append([]byte{tagEntries}, 0, 0, 0, 0, 0, 0, 0, 1), frame...),
	} {
		_, err := k.decoder(newSource(bytes.NewReader(stream), 100), 1, 2).next()
		if !errors.Is(err, errTooLarge) {
			t.Errorf("%s: %v", k, err)
		}
	}
}

// TestLengthsAreNotBelieved reads streams that claim to be endless: memory is
// taken for what came.
func TestLengthsAreNotBelieved(t *testing.T) {
	huge := binary.BigEndian.AppendUint64(nil, 1<<40)
	for k, stream := range map[kind][]byte{
		everything: append(huge, "some"...),
		appends:    append(append([]byte{tagEntries}, binary.BigEndian.AppendUint64(nil, 1<<62)...), make([]byte, 8*50)...),
	} {
		spent := testing.AllocsPerRun(1, func() {
			_, err := k.decoder(newSource(bytes.NewReader(stream), 1<<50), 1, 2).next()
			if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
				t.Errorf("%s: %v", k, err)
			}
		})
		if spent > 50 {
			t.Errorf("%s: %v allocations", k, spent)
		}
	}
}

func TestLargePartsAreWhole(t *testing.T) {
	data := make([]byte, 5<<20+3)
	for i := range data {
		data[i] = byte(i * 7)
	}
	wire, err := frames{}.message(nil, appended(1, 1, 1, 1, entry(1, 2, string(data))))
	if err != nil {
		t.Fatal(err)
	}
	m, err := everything.decoder(newSource(bytes.NewReader(wire), 8<<20), 1, 2).next()
	if err != nil || !bytes.Equal(m.Entries[0].Data, data) {
		t.Errorf("the entry came back changed: %v", err)
	}
}

func TestSmallPartsDoNotShareBytes(t *testing.T) {
	enc, wire := appends.encoder(), []byte(nil)
	for i := range uint64(2000) {
		var err error
		if wire, err = enc.message(wire, appended(1, 1, i, 0, entry(1, i+1, strings.Repeat("x", int(i%40)+1)))); err != nil {
			t.Fatal(err)
		}
	}
	dec := appends.decoder(newSource(bytes.NewReader(wire), 1<<20), 1, 2)
	var all []*raftpb.Entry
	for range 2000 {
		m, err := dec.next()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m.Entries...)
	}
	for i, e := range all {
		e.Data = append(e.Data, "overflow"...)
		if e.GetIndex() != uint64(i+1) || string(e.Data) != strings.Repeat("x", i%40+1)+"overflow" {
			t.Fatalf("entry %d is %v", i, e)
		}
	}
}

func fuzz(f *testing.F, k kind) {
	r := rand.New(rand.NewPCG(1, 2))
	enc := k.encoder()
	var whole []byte
	for i := range 6 {
		m := someMessage(r)
		if k == appends {
			m = appended(1, 1, uint64(i), 1, entry(1, uint64(i+1), "data"))
		}
		whole, _ = enc.message(whole, m)
		whole = enc.heartbeat(whole)
		f.Add(whole)
	}
	f.Add([]byte{3})
	f.Add(bytes.Repeat([]byte{0xff}, 20))
	f.Fuzz(func(t *testing.T, stream []byte) {
		dec := k.decoder(newSource(bytes.NewReader(stream), 1<<20), 1, 2)
		again := k.encoder()
		var wire []byte
		var seen []*raftpb.Message
		for {
			m, err := dec.next()
			if err != nil {
				break
			}
			if m == nil {
				continue
			}
			if k == appends {
				if m.GetFrom() != 1 || m.GetTo() != 2 || m.GetType() != raftpb.MsgApp || unsteady(m) {
					return // what an encoder never sends does not have to come back
				}
			}
			if wire, err = again.message(wire, m); err != nil {
				t.Fatalf("%v was read and cannot be written: %v", m, err)
			}
			seen = append(seen, m)
		}
		back := k.decoder(newSource(bytes.NewReader(wire), 2<<20), 1, 2)
		for _, m := range seen {
			got, err := back.next()
			if err != nil || got == nil || !same(got, m) {
				t.Fatalf("wrote %v and read %v, %v", m, got, err)
			}
		}
	})
}

// unsteady messages have entries that do not follow each other.
func unsteady(m *raftpb.Message) bool {
	for i, e := range m.Entries {
		if e.GetIndex() != m.GetIndex()+uint64(i)+1 {
			return true
		}
	}
	return m.Snapshot != nil || m.Reject != nil || m.Context != nil || m.RejectHint != nil || m.Vote != nil ||
		m.Responses != nil || len(m.ProtoReflect().GetUnknown()) > 0
}

// same compares with zeros for what is absent.
func same(a, b *raftpb.Message) bool {
	fill := func(m *raftpb.Message) *raftpb.Message {
		m = proto.CloneOf(m)
		for _, field := range []**uint64{&m.To, &m.From, &m.Term, &m.LogTerm, &m.Index, &m.Commit} {
			if *field == nil {
				*field = ptr(uint64(0))
			}
		}
		return m
	}
	return proto.Equal(fill(a), fill(b))
}

func FuzzMessages(f *testing.F) { fuzz(f, everything) }

func FuzzAppends(f *testing.F) { fuzz(f, appends) }
