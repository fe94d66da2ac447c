package daemon

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// stranger connects to a port over TLS; h2 says to speak HTTP/2.
func stranger(t *testing.T, a *authority, address string, h2 bool) *tls.Conn {
	t.Helper()
	config := &tls.Config{RootCAs: a.pool}
	if h2 {
		config.NextProtos = []string{"h2"}
	}
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", address, config)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	return conn
}

// ends reads until a connection is closed, and returns what was said.
func ends(t *testing.T, conn net.Conn, subject string) string {
	t.Helper()
	b, err := io.ReadAll(io.LimitReader(conn, 1<<20))
	if failed, ok := err.(net.Error); ok && failed.Timeout() { //nolint:errorlint // it comes straight from the connection
		t.Errorf("%s: the connection stays open", subject)
	}
	return string(b)
}

// greeted has sent the beginning of HTTP/2.
func greeted(t *testing.T, a *authority, address string) (*tls.Conn, *http2.Framer) {
	t.Helper()
	conn := stranger(t, a, address, true)
	_, err := io.WriteString(conn, http2.ClientPreface)
	must(t, err)
	f := http2.NewFramer(conn, conn)
	must(t, f.WriteSettings())
	return conn, f
}

// headers of a call.
func headers(path string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, f := range []hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "https"}, {Name: ":path", Value: path}, {Name: ":authority", Value: "x"},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
	} {
		e.WriteField(f) // into memory
	}
	return b.Bytes()
}

// memory is what is in use after a collection, in bytes.
func memory() int64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc + s.StackInuse)
}

func TestMalformedFramesEndTheirConnectionOnly(t *testing.T) {
	a := newAuthority(t)
	a.leaf(t, "now", "127.0.0.1")
	d := start(t, secureFlags(a, t.TempDir())...)
	address := d.client(t)
	good := secureClient(t, address, &tls.Config{RootCAs: a.pool})
	must(t, put(t, good, "k", "before"))
	const path = "/etcdserverpb.KV/Put"
	for name, say := range map[string]func(*tls.Conn, *http2.Framer) error{
		"a frame that is larger than allowed": func(c *tls.Conn, _ *http2.Framer) error {
			_, err := c.Write([]byte{0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1}) // 16 MiB of data are to follow
			return err
		},
		"headers of stream 0": func(c *tls.Conn, _ *http2.Framer) error {
			_, err := c.Write([]byte{0, 0, 0, 1, 4, 0, 0, 0, 0})
			return err
		},
		"headers that are none": func(_ *tls.Conn, f *http2.Framer) error {
			return f.WriteRawFrame(http2.FrameHeaders, 4, 1, bytes.Repeat([]byte{0xff}, 64))
		},
		"settings of no length": func(_ *tls.Conn, f *http2.Framer) error {
			return f.WriteRawFrame(http2.FrameSettings, 0, 0, []byte("x"))
		},
		"a window beyond all bounds": func(_ *tls.Conn, f *http2.Framer) error {
			return f.WriteRawFrame(http2.FrameWindowUpdate, 0, 0, []byte{0, 0, 0, 0})
		},
		"a stream with the number of a server": func(_ *tls.Conn, f *http2.Framer) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2, BlockFragment: headers(path), EndHeaders: true})
		},
		"noise": func(c *tls.Conn, _ *http2.Framer) error {
			noise, random := make([]byte, 4096), rand.NewChaCha8([32]byte{1})
			random.Read(noise) // it never fails
			noise[0] = 0xff    // a length that is not allowed, whatever follows
			_, err := c.Write(noise)
			return err
		},
	} {
		conn, f := greeted(t, a, address)
		if err := say(conn, f); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		ends(t, conn, name)
	}
	must(t, put(t, good, "k", "after"))
}

// TestClaimedLengthsAreNotBelieved sends messages that claim to be long: what is
// too long is refused before it is waited for.
func TestClaimedLengthsAreNotBelieved(t *testing.T) {
	a := newAuthority(t)
	a.leaf(t, "now", "127.0.0.1")
	d := start(t, secureFlags(a, t.TempDir())...)
	before := memory()
	for _, claimed := range []uint32{1 << 30, 1<<32 - 1} {
		conn, f := greeted(t, a, d.client(t))
		must(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headers("/etcdserverpb.KV/Put"), EndHeaders: true}))
		must(t, f.WriteData(1, false, binary.BigEndian.AppendUint32([]byte{0}, claimed)))
		decoder := http2.NewFramer(io.Discard, conn)
		decoder.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		status := ""
		for status == "" {
			frame, err := decoder.ReadFrame()
			must(t, err)
			if head, ok := frame.(*http2.MetaHeadersFrame); ok {
				for _, field := range head.Fields {
					if field.Name == "grpc-status" {
						status = field.Value
					}
				}
			}
		}
		if status != "8" { // ResourceExhausted
			t.Errorf("%d bytes: status %s", claimed, status)
		}
		conn.Close()
	}
	if grown := memory() - before; grown > 64<<20 {
		t.Errorf("memory has grown by %d MiB", grown>>20)
	}
}

func TestEndlessHeadersAreCutOff(t *testing.T) {
	a := newAuthority(t)
	a.leaf(t, "now", "127.0.0.1")
	d := start(t, secureFlags(a, t.TempDir())...)
	address := d.client(t)
	const most = 64 << 20
	t.Run("HTTP/1", func(t *testing.T) {
		conn := stranger(t, a, address, false)
		_, err := io.WriteString(conn, "GET /health HTTP/1.1\r\n")
		must(t, err)
		line := []byte("X-Header: " + strings.Repeat("x", 4096) + "\r\n")
		said := make(chan string, 1)
		go func() {
			b, _ := io.ReadAll(io.LimitReader(conn, 4096)) // until it is closed
			said <- string(b)
		}()
		sent := 0
		for ; sent < most && err == nil; sent += len(line) {
			_, err = conn.Write(line)
		}
		if err == nil {
			t.Errorf("%d bytes were taken", sent)
		}
		if answer := <-said; answer != "" && !strings.Contains(answer, " 431 ") {
			t.Errorf("answered %q", answer)
		}
	})
	t.Run("HTTP/2", func(t *testing.T) {
		conn, f := greeted(t, a, address)
		go io.Copy(io.Discard, conn) // until it is closed
		must(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headers("/etcdserverpb.KV/Put")}))
		var b bytes.Buffer
		hpack.NewEncoder(&b).WriteField(hpack.HeaderField{Name: "x-header", Value: strings.Repeat("~", 8192), Sensitive: true}) // into memory
		var err error
		sent := 0
		for ; sent < most && err == nil; sent += b.Len() {
			err = f.WriteContinuation(1, false, b.Bytes())
		}
		if err == nil {
			t.Errorf("%d bytes were taken", sent)
		}
	})
	must(t, put(t, secureClient(t, address, &tls.Config{RootCAs: a.pool}), "k", "v"))
}

// TestThousandsOfIdleConnectionsHarmNobody opens connections that say nothing:
// most of them not even a TLS handshake, others one and no more.
func TestThousandsOfIdleConnectionsHarmNobody(t *testing.T) {
	a := newAuthority(t)
	a.leaf(t, "now", "127.0.0.1")
	d := start(t, secureFlags(a, t.TempDir())...)
	address := d.client(t)
	good := secureClient(t, address, &tls.Config{RootCAs: a.pool})
	must(t, put(t, good, "k", "before"))
	before := memory()
	const silent, shaken = 2000, 500
	var all sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	open := func(n int, dial func() (net.Conn, error)) {
		for range 8 {
			all.Go(func() {
				for range n / 8 {
					conn, err := dial()
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					conns = append(conns, conn)
					mu.Unlock()
				}
			})
		}
		all.Wait()
	}
	config := &tls.Config{RootCAs: a.pool, NextProtos: []string{"h2"}}
	open(shaken, func() (net.Conn, error) {
		return tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", address, config)
	})
	open(silent, func() (net.Conn, error) { return net.DialTimeout("tcp", address, patience) })
	began := time.Now()
	must(t, put(t, good, "k", "on a connection that was there"))
	for range 3 {
		must(t, put(t, secureClient(t, address, &tls.Config{RootCAs: a.pool}), "k", "on a new one"))
	}
	if took := time.Since(began); took > 8*time.Second { // the patience of the port, and a busy machine
		t.Errorf("new clients waited %s", took)
	}
	each := (memory() - before) / (silent + shaken)
	t.Log(fmt.Sprint(each, " bytes of memory a connection, both of its ends"))
	if each > 100<<10 {
		t.Errorf("%d KiB of memory a connection", each>>10)
	}
}
