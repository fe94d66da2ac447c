package peer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/member"
)

// lone is a station that knows 0xa, and that 0xd was removed.
func lone(t *testing.T, tune ...func(*Options, *Parts)) *station {
	b := newStation(t, 0xb, tune...)
	b.Follow(viewOf(t, []member.Member{
		b.member(), {ID: 0xa, PeerURLs: []string{"http://127.0.0.1:1"}}, {ID: 0xd, PeerURLs: []string{"http://127.0.0.1:2"}},
	}, 0xd))
	return b
}

func with(h http.Header, pairs ...string) http.Header {
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			h.Del(pairs[i])
		} else {
			h.Set(pairs[i], pairs[i+1])
		}
	}
	return h
}

// TestStreamsAreRefusedInOrder asks for streams with one more fault each time:
// the first that etcd finds counts.
func TestStreamsAreRefusedInOrder(t *testing.T) {
	b := lone(t)
	good := func(from member.ID, pairs ...string) http.Header {
		return with(introduction(from), append([]string{headerTo, "b"}, pairs...)...)
	}
	for name, c := range map[string]struct {
		verb, path string
		header     http.Header
		status     int
		text       string
	}{
		"another method":            {"POST", "/raft/stream/message/a", good(0xa), 405, "Method Not Allowed\n"},
		"too old":                   {"GET", "/raft/stream/x/zz", good(0xa, headerVersion, "2.3.8"), 412, "incompatible version\n"},
		"no version":                {"GET", "/raft/stream/message/a", good(0xa, headerVersion, ""), 412, "incompatible version\n"},
		"two numbers":               {"GET", "/raft/stream/message/a", good(0xa, headerVersion, "3.7"), 412, "incompatible version\n"},
		"no number":                 {"GET", "/raft/stream/message/a", good(0xa, headerVersion, "3.x.1"), 412, "incompatible version\n"},
		"minimum is no version":     {"GET", "/raft/stream/message/a", good(0xa, headerMinVersion, "....."), 412, "incompatible version\n"},
		"asks for newer ones":       {"GET", "/raft/stream/message/a", good(0xa, headerMinVersion, "3.8.0"), 412, "incompatible version\n"},
		"another cluster":           {"GET", "/raft/stream/x/zz", good(0xa, headerCluster, "ff"), 412, "cluster ID mismatch\n"},
		"no cluster":                {"GET", "/raft/stream/x/zz", good(0xa, headerCluster, ""), 412, "cluster ID mismatch\n"},
		"unknown stream":            {"GET", "/raft/stream/x/zz", good(0xa), 404, "invalid path\n"},
		"no stream":                 {"GET", "/raft/stream/a", good(0xa), 404, "invalid path\n"},
		"no ID":                     {"GET", "/raft/stream/message/zz", good(0xa), 404, "invalid from\n"},
		"removed, for somebody":     {"GET", "/raft/stream/message/d", good(0xd, headerTo, "1"), 410, "removed member\n"},
		"not known, for somebody":   {"GET", "/raft/stream/message/e", good(0xe, headerTo, "1"), 404, "error sender not found\n"},
		"known, for somebody":       {"GET", "/raft/stream/msgapp/a", good(0xa, headerTo, "1"), 412, "to field mismatch\n"},
		"known, for nobody":         {"GET", "/raft/stream/msgapp/a", good(0xa, headerTo, ""), 412, "to field mismatch\n"},
		"not known, at URLs":        {"GET", "/raft/stream/msgapp/c", good(0, headerURLs, "http://127.0.0.1:3,http://127.0.0.1:4"), 404, "error sender not found\n"},
		"not known, at no such URL": {"GET", "/raft/stream/msgapp/f", good(0, headerURLs, "nowhere,:"), 404, "error sender not found\n"},
	} {
		status, header, text := request(t, c.verb, b.url+c.path, c.header, nil)
		if status != c.status || text != c.text {
			t.Errorf("%s: %d %q, want %d %q", name, status, text, c.status, c.text)
		}
		if c.verb == "POST" {
			if header.Get("Allow") != "GET" || header.Get(headerCluster) != "" {
				t.Errorf("%s: headers %v", name, header)
			}
		} else if header.Get(headerCluster) != "c1" || header.Get(headerVersion) != "3.7.3" ||
			header.Get("Content-Type") != "text/plain; charset=utf-8" || header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: headers %v", name, header)
		}
	}
	remotes := b.known.Load().remotes
	if len(remotes) != 1 || remotes[0xc] == nil || len(remotes[0xc].urls.all()) != 2 {
		t.Errorf("remotes are %v", remotes)
	}
}

func TestNewerVersionsAreLetIn(t *testing.T) {
	b := lone(t)
	for _, version := range []string{"3.8.1", "4.0.0-alpha.1+build", "3.0.0"} {
		header := with(introduction(0xa), headerVersion, version)
		if status, _, text := request(t, "POST", b.url+"/raft", header, nil); status != 412 || text != "to field mismatch\n" {
			t.Errorf("%s: %d %q, so the empty message was not looked at", version, status, text)
		}
	}
}

func TestPostsAreChecked(t *testing.T) {
	b := lone(t, func(o *Options, _ *Parts) { o.MaxMessageBytes = 1000 })
	wire := func(m *raftpb.Message) []byte {
		body, err := appendMessage(nil, m)
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	for name, c := range map[string]struct {
		verb   string
		header http.Header
		body   []byte
		status int
		text   string
	}{
		"another method":    {"GET", introduction(0xa), nil, 405, "Method Not Allowed\n"},
		"too old":           {"POST", with(introduction(0xa), headerVersion, ""), nil, 412, "incompatible version\n"},
		"another cluster":   {"POST", with(introduction(0xa), headerCluster, "1"), nil, 412, "cluster ID mismatch\n"},
		"no message":        {"POST", introduction(0xa), []byte{0xff}, 400, "error unmarshalling raft message\n"},
		"too large":         {"POST", introduction(0xa), make([]byte, 1001), 400, "error reading raft message\n"},
		"a removed sender":  {"POST", introduction(0xd), wire(heartbeat(0xd, 0xb, 1)), 403, `{"message":"cannot process message from removed member"}`},
		"another receiver":  {"POST", introduction(0xa), wire(heartbeat(0xa, 0xc, 2)), 412, "to field mismatch\n"},
		"well":              {"POST", introduction(0xa), wire(heartbeat(0xa, 0xb, 3)), 204, ""},
		"well, not known":   {"POST", with(introduction(0xc), headerURLs, "http://127.0.0.1:3"), wire(heartbeat(0xc, 0xb, 4)), 204, ""},
		"well, from nobody": {"POST", with(introduction(0xc), headerFrom, ""), wire(heartbeat(0xe, 0xb, 5)), 204, ""},
	} {
		status, header, text := request(t, c.verb, b.url+"/raft", c.header, bytes.NewReader(c.body))
		if status != c.status || text != c.text {
			t.Errorf("%s: %d %q, want %d %q", name, status, text, c.status, c.text)
		}
		if want := c.status != 405; (header.Get(headerCluster) == "c1") != want || header.Get(headerVersion) != "" {
			t.Errorf("%s: headers %v", name, header)
		}
	}
	for from, index := range map[member.ID]uint64{0xa: 3, 0xc: 4, 0xe: 5} {
		if !b.ear.heard(from, index) {
			t.Errorf("the message of %s was not delivered", from)
		}
	}
	if len(b.ear.heardAll()) != 3 {
		t.Errorf("%d messages were delivered", len(b.ear.heardAll()))
	}
	if r := b.known.Load().remotes; len(r) != 1 || r[0xc] == nil {
		t.Errorf("remotes are %v", r)
	}
}

func TestWhatIsNotThereIs404(t *testing.T) {
	b := lone(t)
	for _, path := range []string{"/", "/raft/other", "/raft/probing/", "/members/", "/members", "/health", "/metrics", "/v3/kv/range", "/leases/x", "/version"} {
		if status, _, text := request(t, "GET", b.url+path, nil, nil); status != 404 || text != "404 page not found\n" {
			t.Errorf("%s: %d %q", path, status, text)
		}
	}
	status, header, _ := request(t, "GET", b.url+"/raft/stream", nil, nil)
	if status != http.StatusTemporaryRedirect && status != http.StatusMovedPermanently || header.Get("Location") != "/raft/stream/" {
		t.Errorf("/raft/stream: %d to %q", status, header.Get("Location"))
	}
}

// open opens a stream of b as 0xa would.
func (s *station) openStream(t *testing.T, k kind) (*http.Response, net.Conn) {
	t.Helper()
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "GET /raft/stream/%s/a HTTP/1.1\r\nHost: x\r\n", k)
	with(introduction(0xa), headerTo, s.id.String()).Write(conn)
	io.WriteString(conn, "\r\n")
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode != 200 || answer.Header.Get(headerVersion) != "3.7.3" || answer.Header.Get(headerCluster) != "c1" ||
		answer.Header.Get("Content-Type") != "" || len(answer.TransferEncoding) != 1 {
		t.Fatalf("the stream is answered with %d, %v, %v", answer.StatusCode, answer.Header, answer.TransferEncoding)
	}
	return answer, conn
}

func TestStreamsShowSignsOfLife(t *testing.T) {
	b := lone(t)
	for k, want := range map[kind]string{
		everything: "\x00\x00\x00\x00\x00\x00\x00\x02\x08\x08",
		appends:    "\x00",
	} {
		answer, _ := b.openStream(t, k)
		for range 2 {
			got := make([]byte, len(want))
			if _, err := io.ReadFull(answer.Body, got); err != nil || string(got) != want {
				t.Errorf("%s: %q, %v", k, got, err)
			}
		}
	}
}

func TestANewStreamTakesThePlaceOfTheOld(t *testing.T) {
	b := lone(t)
	first, _ := b.openStream(t, appends)
	second, _ := b.openStream(t, appends)
	if _, err := io.Copy(io.Discard, first.Body); err != nil {
		t.Errorf("the first one did not end in order: %v", err)
	}
	b.Send([]*raftpb.Message{appendTo(0xb, 0xa, 7)})
	read := appends.decoder(newSource(second.Body, 1<<20), 0xb, 0xa)
	for {
		m, err := read.next()
		if err != nil {
			t.Fatal(err)
		}
		if m != nil {
			if m.GetIndex() != 7 || len(m.Entries) != 1 {
				t.Errorf("read %v", m)
			}
			break
		}
	}
	if !b.active(0xa) || b.ear.count(b.ear.lost, 0xa) != 0 {
		t.Error("something was lost")
	}
}

// TestAppendsGoOnAnyStream sends before there is a stream for them.
func TestAppendsGoOnAnyStream(t *testing.T) {
	b := lone(t)
	answer, _ := b.openStream(t, everything)
	eventually(t, "the stream is open", func() bool { return b.known.Load().peers[0xa].open(everything) })
	b.Send([]*raftpb.Message{appendTo(0xb, 0xa, 7)})
	read := everything.decoder(newSource(answer.Body, 1<<20), 0xb, 0xa)
	for {
		m, err := read.next()
		if err != nil {
			t.Fatal(err)
		}
		if m != nil {
			if m.GetIndex() != 7 {
				t.Errorf("read %v", m)
			}
			return
		}
	}
}

// TestAFullQueueDropsAndTells has a member that does not read its stream.
func TestAFullQueueDropsAndTells(t *testing.T) {
	b := lone(t, func(o *Options, _ *Parts) { o.WriteTimeout = 3 * time.Second })
	_, conn := b.openStream(t, appends)
	conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	m := appendTo(0xb, 0xa, 7)
	m.Entries[0].Data = make([]byte, 100<<10)
	p := b.known.Load().peers[0xa]
	began := time.Now()
	n := 0
	for ; b.ear.count(b.ear.lost, 0xa) == 0; n++ {
		b.Send([]*raftpb.Message{m})
		if n > 100*laneMessages {
			t.Fatal("the queue has no end")
		}
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("sending %d messages took %s", n, took)
	}
	if n < laneMessages {
		t.Errorf("dropped after %d messages", n)
	}
	if len(b.log.lines("level=WARN", "queue is full", "queue=msgapp")) != 1 {
		t.Error("the log does not say so once")
	}
	eventually(t, "the stream is given up", func() bool { return !p.open(appends) })
	eventually(t, "and the peer is inactive", func() bool { return !b.active(0xa) })
	b.Send([]*raftpb.Message{m, m}) // they are posted, and nobody is there
	if b.metric("etcd_network_peer_sent_failures_total", "a") < laneMessages {
		t.Error("what waited is not counted as lost")
	}
}

func TestAFullPipelineDropsAndTells(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	b := newStation(t, 0xb)
	b.AddRemote(0xa, []string{"http://" + silent.Addr().String()})
	for range pipelinePosts + pipelineMessages + 1 {
		b.Send([]*raftpb.Message{heartbeat(0xb, 0xa, 1)})
	}
	eventually(t, "one was dropped", func() bool { return b.ear.count(b.ear.lost, 0xa) > 0 })
}

func TestSlowHeadersCostTheirConnection(t *testing.T) {
	b := lone(t)
	conn, err := net.Dial("tcp", b.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	began := time.Now()
	fmt.Fprintf(conn, "GET /raft/stream/message/a HTTP/1.1\r\nHost: x\r\nX-More: ")
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, conn)
		ended <- err
	}()
	for {
		select {
		case <-ended:
			if took := time.Since(began); took > 10*testTimeout {
				t.Errorf("it took %s", took)
			}
			return
		case <-time.After(testTimeout / 10):
			conn.Write([]byte("x")) // it goes on and on
		}
	}
}

func TestSlowBodiesCostTheirConnection(t *testing.T) {
	b := lone(t)
	conn, err := net.Dial("tcp", b.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /raft HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n")
	introduction(0xa).Write(conn)
	io.WriteString(conn, "\r\nhalf")
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || answer.StatusCode != 400 {
		t.Fatalf("answered with %v, %v", answer, err)
	}
}

// TestStrangePeersCostTheirConnection has members that do not keep to the
// protocol in one way or another. Nothing comes of it, and they are tried again.
func TestStrangePeersCostTheirConnection(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nX-Server-Version: 3.7.3\r\nTransfer-Encoding: chunked\r\n\r\n"
	for name, c := range map[string]struct {
		says   string
		active bool // for a moment
	}{
		"garbage":                {"\x00\x01\x02garbage\r\n\r\n", false},
		"nothing":                {"", false},
		"endless headers":        {"HTTP/1.1 200 OK\r\nX-Long: " + strings.Repeat("x", 100<<10), false},
		"no version":             {strings.Replace(ok, "X-Server-Version: 3.7.3\r\n", "", 1), false},
		"a version of nonsense":  {strings.Replace(ok, "3.7.3", "..", 1), false},
		"silence on the stream":  {ok, true},
		"garbage on the stream":  {ok + "20\r\n" + strings.Repeat("\xff", 32) + "\r\n", true},
		"a huge message":         {ok + "8\r\n\x00\x00\x00\xff\x00\x00\x00\x00\r\n", true},
		"a message that is none": {ok + "a\r\n\x00\x00\x00\x00\x00\x00\x00\x02\x3a\x10\r\n", true},
		"chunks of nonsense":     {ok + "zz\r\n", true},
		"another status":         {"HTTP/1.1 500 Oh\r\nX-Server-Version: 3.7.3\r\nContent-Length: 0\r\n\r\n", false},
		"a redirect":             {"HTTP/1.1 302 Found\r\nX-Server-Version: 3.7.3\r\nLocation: /members\r\nContent-Length: 0\r\n\r\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			accepted := make(chan struct{}, 1000)
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					accepted <- struct{}{}
					go func() {
						defer conn.Close()
						http.ReadRequest(bufio.NewReader(conn))
						io.WriteString(conn, c.says)
						io.Copy(io.Discard, conn) // until the other side has had enough
					}()
				}
			}()
			b := newStation(t, 0xb)
			b.Follow(viewOf(t, []member.Member{b.member(), {ID: 0xa, PeerURLs: []string{"http://" + l.Addr().String()}}}))
			for range 5 {
				select {
				case <-accepted:
				case <-time.After(20 * time.Second):
					t.Fatal("it is not tried again")
				}
			}
			eventually(t, "it is inactive", func() bool { return !b.active(0xa) })
			if c.active != (len(b.log.lines("peer became active")) > 0) {
				t.Errorf("it was active: %v", !c.active)
			}
			if err := b.end(); err != nil || len(b.ear.heardAll()) > 0 {
				t.Errorf("Run returned %v, and %d messages were delivered", err, len(b.ear.heardAll()))
			}
		})
	}
}

func TestProbesAreAnswered(t *testing.T) {
	b := lone(t)
	status, header, text := request(t, "GET", b.url+"/raft/probing", nil, nil)
	if status != 200 || header.Get("Content-Type") != "text/plain; charset=utf-8" || header.Get(headerCluster) != "" ||
		!strings.HasPrefix(text, `{"OK":true,"Now":"`) || !strings.HasSuffix(text, "\"}\n") {
		t.Errorf("%d %v %q", status, header, text)
	}
	p := b.known.Load().peers[0xa]
	p.urls.replace([]string{b.url})
	h := &health{}
	p.probeOnce(h, b.posts)
	if !h.well || h.trip <= 0 || h.drift.Abs() > time.Minute {
		t.Errorf("the probe says %+v", h)
	}
	h.saw(time.Now().Add(-time.Second), time.Now(), pulse{OK: true, Now: time.Now().Add(-time.Hour)})
	p.report(probePosts, h)
	if len(b.log.lines("clock", "behind", "round-tripper-name=ROUND_TRIPPER_SNAPSHOT")) != 1 {
		t.Error("the log does not tell of the clock")
	}
	p.urls.replace([]string{"http://127.0.0.1:1"})
	if p.probeOnce(h, b.posts); h.well || h.err == nil {
		t.Errorf("the probe says %+v", h)
	}
	if b.metric("etcd_network_peer_round_trip_time_seconds", "a") != 1 {
		t.Error("the round trip is not measured")
	}
	var down *net.OpError
	if !errors.As(h.err, &down) {
		t.Errorf("the error is %v", h.err)
	}
}
