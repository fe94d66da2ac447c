package daemon

import (
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// heard reads frames until one of a kind comes.
func heard[F http2.Frame](t *testing.T, f *http2.Framer, good func(F) bool) F {
	t.Helper()
	for {
		frame, err := f.ReadFrame()
		must(t, err)
		if got, ok := frame.(F); ok && good(got) {
			return got
		}
	}
}

func TestAConnectionIsToldHowManyStreamsItMayHave(t *testing.T) {
	a := newAuthority(t)
	a.leaf(t, "now", "127.0.0.1")
	d := start(t, append(secureFlags(a, t.TempDir()), "--max-concurrent-streams=3")...)
	conn, f := greeted(t, a, d.client(t))
	settings := heard(t, f, func(s *http2.SettingsFrame) bool { return !s.IsAck() })
	if most, ok := settings.Value(http2.SettingMaxConcurrentStreams); !ok || most != 3 {
		t.Errorf("%d streams, %v", most, ok)
	}
	must(t, f.WriteSettingsAck())
	for id := uint32(1); id <= 9; id += 2 { // watches, which stay open
		must(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: headers("/etcdserverpb.Watch/Watch"), EndHeaders: true}))
	}
	refused := map[uint32]bool{}
	for len(refused) < 2 {
		r := heard(t, f, func(r *http2.RSTStreamFrame) bool { return r.ErrCode == http2.ErrCodeRefusedStream })
		refused[r.StreamID] = true
	}
	if !refused[7] || !refused[9] {
		t.Errorf("refused are %v", refused)
	}
	conn.Close()
}

func TestWhoPingsTooOftenIsSentAway(t *testing.T) {
	a := newAuthority(t)
	a.leaf(t, "now", "127.0.0.1")
	for _, c := range []struct {
		least string
		away  bool
	}{{"1h", true}, {"1ns", false}} {
		d := start(t, append(secureFlags(a, t.TempDir()), "--grpc-keepalive-min-time="+c.least)...)
		conn, f := greeted(t, a, d.client(t))
		must(t, f.WriteSettingsAck())
		must(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headers("/etcdserverpb.Watch/Watch"), EndHeaders: true}))
		pings, away := 0, false
		must(t, conn.SetDeadline(time.Now().Add(patience)))
		for pings < 10 && !away {
			must(t, f.WritePing(false, [8]byte{byte(pings)}))
			for answered := false; !answered && !away; {
				frame, err := f.ReadFrame()
				must(t, err)
				switch got := frame.(type) {
				case *http2.PingFrame:
					answered = got.IsAck()
				case *http2.GoAwayFrame:
					away = got.ErrCode == http2.ErrCodeEnhanceYourCalm
				}
			}
			pings++
		}
		if away != c.away {
			t.Errorf("at least %s between pings: after %d at once, sent away: %v", c.least, pings, away)
		}
		conn.Close()
		must(t, d.stop(t))
	}
}
