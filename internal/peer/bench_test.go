package peer

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// put is the traffic that a put costs: an append with an entry of 256 bytes.
func put(index uint64) *raftpb.Message {
	return appended(1, 1, index, index, entry(1, index+1, string(make([]byte, 256))))
}

func TestEncodingTakesNoMemory(t *testing.T) {
	for _, k := range []kind{everything, appends} {
		enc, buf := k.encoder(), make([]byte, 0, 1<<20)
		messages := []*raftpb.Message{put(1), put(2), put(3), heartbeat(1, 2, 3)}
		if k == appends {
			messages = messages[:3]
		}
		if n := testing.AllocsPerRun(100, func() {
			b := buf
			for _, m := range messages {
				b, _ = enc.message(b, m)
			}
			enc.heartbeat(b)
		}); n != 0 {
			t.Errorf("%s: %v allocations", k, n)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, k := range []kind{everything, appends} {
		b.Run(k.String(), func(b *testing.B) {
			enc, buf, m := k.encoder(), make([]byte, 0, 1<<20), put(1)
			b.ReportAllocs()
			for b.Loop() {
				buf, _ = enc.message(buf[:0], m)
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, k := range []kind{everything, appends} {
		b.Run(k.String(), func(b *testing.B) {
			enc, wire := k.encoder(), []byte(nil)
			const n = 1000
			for i := range uint64(n) {
				wire, _ = enc.message(wire, put(i))
			}
			b.ReportAllocs()
			for b.Loop() {
				dec := k.decoder(newSource(bytes.NewReader(wire), 1<<20), 1, 2)
				for {
					if _, err := dec.next(); errors.Is(err, io.EOF) {
						break
					} else if err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/message")
		})
	}
}
