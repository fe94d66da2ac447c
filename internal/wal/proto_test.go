package wal

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Everything hand-written agrees with protobuf's own code.
func TestEncodesLikeProto(t *testing.T) {
	newer := entry(1, 2, "x")
	newer.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 9, protowire.VarintType), 77))
	for _, e := range []*raftpb.Entry{
		{},
		entry(1, 1, "a"), entry(1<<63, 1<<40, string(make([]byte, 1000))),
		{Term: new(uint64(0)), Index: new(uint64(0)), Data: []byte{}},
		{Term: new(uint64(3)), Index: new(uint64(4))},
		{Type: raftpb.EntryNormal.Enum(), Term: new(uint64(3)), Index: new(uint64(4))},
		{Type: raftpb.EntryConfChange.Enum(), Term: new(uint64(3)), Index: new(uint64(4)), Data: []byte("c")},
		newer,
	} {
		want := must(proto.Marshal(e))(t)
		if got := appendEntry(nil, e); !bytes.Equal(got, want) {
			t.Errorf("%v: % x, want % x", e, got, want)
		}
		if got := entrySize(e); got != uint64(proto.Size(e)) {
			t.Errorf("%v: size %d, want %d", e, got, proto.Size(e))
		}
		enc := &encoder{}
		enc.entry(e)
		rec, _, whole := frameAt(enc.buf, 0)
		if !whole || !bytes.Equal(rec.data, want) {
			t.Errorf("%v: framed as % x", e, enc.buf)
		}
		if back := must(parseEntry(want))(t); !proto.Equal(back, e) {
			t.Errorf("%v came back as %v", e, back)
		}
	}
	for _, s := range []State{{}, {1, 2, 3}, {1 << 60, 1 << 63, 1 << 62}} {
		want := must(proto.Marshal(hard(s.Term, s.Vote, s.Commit)))(t)
		if got := appendState(nil, s); !bytes.Equal(got, want) {
			t.Errorf("%v: % x, want % x", s, got, want)
		}
		if back := must(parseState(want))(t); back != s {
			t.Errorf("%v came back as %v", s, back)
		}
	}
}

func FuzzParseEntry(f *testing.F) {
	f.Add(must(proto.Marshal(entry(1, 2, "data")))(f))
	f.Add([]byte{0x08, 0x01, 0x10, 0x00, 0x22, 0x00, 0x48, 0x05})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseEntry(b)
		want := &raftpb.Entry{}
		wantErr := proto.Unmarshal(b, want)
		if err == nil && wantErr == nil && !proto.Equal(got, want) {
			t.Errorf("% x: %v, want %v", b, got, want)
		}
		if err == nil && wantErr != nil {
			t.Errorf("% x: %v, but proto says %v", b, got, wantErr)
		}
	})
}

// Whatever a frame holds: what parses is encoded to the same record again.
func FuzzRecord(f *testing.F) {
	enc := &encoder{}
	enc.seed()
	enc.identity(testID)
	enc.entry(entry(1, 2, "data"))
	enc.state(State{1, 2, 3})
	ok(f, enc.snapshot(Snapshot{3, 1, testConf}))
	for at := 0; at < len(enc.buf); {
		_, next, _ := frameAt(enc.buf, at)
		f.Add(enc.buf[at:next])
		at = next
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, next, whole := frameAt(b, 0)
		if !whole {
			return
		}
		if next > len(b) || len(rec.data) > len(b) {
			t.Fatalf("a record past the end: %d of %d", next, len(b))
		}
		size, pad, err := splitWord(binary.LittleEndian.Uint64(b))
		if err != nil || int(size+pad)+frameHead != next || !headAgrees(b[frameHead:][:size], size) {
			t.Fatalf("size %d, padding %d, %v; next frame at %d", size, pad, err, next)
		}
		again := &encoder{}
		again.add(rec.kind, append([]byte{}, rec.data...), nil)
		back, _, whole := frameAt(again.buf, 0)
		if !whole || back.kind != rec.kind || !bytes.Equal(back.data, rec.data) || back.crc != crc32.Checksum(rec.data, castagnoli) {
			t.Errorf("%v record of %d bytes came back as %v of %d", rec.kind, len(rec.data), back.kind, len(back.data))
		}
	})
}
