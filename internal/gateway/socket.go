package gateway

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// A page's script cannot read and write one request at the same time. It opens
// a websocket instead: each frame from it is a request in JSON, each answer goes
// to it as one frame.

// closeTimeout is how long the closing of a socket may take.
const closeTimeout = time.Second

func upgrades(r *http.Request) bool { return websocket.IsWebSocketUpgrade(r) }

// socket serves a websocket as if its frames were the body of a POST. Closing it
// ends the call.
func (t *translator) socket(w http.ResponseWriter, r *http.Request) {
	offered := r.Header.Get("Sec-WebSocket-Protocol")
	var header http.Header
	if strings.HasPrefix(offered, "Bearer") {
		header = http.Header{"Sec-WebSocket-Protocol": {"Bearer"}}
	}
	upgrader := websocket.Upgrader{CheckOrigin: t.origin}
	conn, err := upgrader.Upgrade(w, r, header)
	if err != nil {
		t.log.Debug("a websocket was not opened", "remote", r.RemoteAddr, "error", err)
		return // the upgrader has answered
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })() // whatever waits for the socket ends
	conn.SetReadLimit(t.limit)
	body, frames := io.Pipe()
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		defer cancel()
		frames.CloseWithError(receive(conn, frames))
	}()
	out := &frameWriter{conn: conn, header: http.Header{}}
	t.answer(out, unframed(ctx, r, offered, body))
	out.finish()
	body.Close()                                                 //nolint:errcheck // never fails
	conn.NetConn().SetReadDeadline(time.Now().Add(closeTimeout)) //nolint:errcheck // the client has gone
	<-reading                                                    // to its farewell: a port that is closed on unread bytes takes ours back
}

// receive writes each frame and a newline, until the socket is closed. That the
// call is over before is no end of the socket: it is going to be told why.
func receive(conn *websocket.Conn, to io.Writer) error {
	for {
		_, frame, err := conn.ReadMessage()
		if err != nil {
			return io.EOF
		}
		if _, err := to.Write(append(frame, '\n')); err != nil {
			to = io.Discard
		}
	}
}

// unframed is the POST that a socket stands for. Of its headers, only where it
// comes from and its token go along: the token as a second protocol after Bearer,
// or in a cookie.
func unframed(ctx context.Context, r *http.Request, offered string, body io.ReadCloser) *http.Request {
	header := http.Header{}
	if offered != "" {
		_, token, _ := strings.Cut(offered, "Bearer,")
		header.Set("Authorization", "Bearer "+strings.TrimSpace(token))
	}
	for _, name := range []string{"Origin", "Referer"} {
		if value := r.Header.Get(name); value != "" {
			header.Set(name, value)
		}
	}
	if cookie, err := r.Cookie("token"); err == nil {
		header.Set("Authorization", "Bearer "+cookie.Value)
	}
	post := &http.Request{
		Method: http.MethodPost, URL: r.URL, Proto: r.Proto, ProtoMajor: r.ProtoMajor, ProtoMinor: r.ProtoMinor,
		Header: header, Body: body, ContentLength: -1, Host: r.Host, RemoteAddr: r.RemoteAddr, TLS: r.TLS,
	}
	return post.WithContext(ctx)
}

// frameWriter sends each line that is written to it as a frame.
type frameWriter struct {
	conn   *websocket.Conn
	header http.Header
	line   []byte // what no newline has ended yet
	err    error
}

func (f *frameWriter) Header() http.Header { return f.header }
func (f *frameWriter) WriteHeader(int)     {}
func (f *frameWriter) Flush()              {}

func (f *frameWriter) Write(b []byte) (int, error) {
	f.line = append(f.line, b...)
	for f.err == nil {
		line, rest, found := bytes.Cut(f.line, []byte("\n"))
		if !found {
			break
		}
		f.send(line)
		f.line = append(f.line[:0], rest...)
	}
	if f.err != nil {
		return 0, f.err
	}
	return len(b), nil
}

func (f *frameWriter) send(line []byte) {
	if len(line) > 0 && f.err == nil {
		f.err = f.conn.WriteMessage(websocket.TextMessage, line)
	}
}

// finish sends what is left, and that nothing follows.
func (f *frameWriter) finish() {
	f.send(f.line)
	farewell := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	f.conn.WriteControl(websocket.CloseMessage, farewell, time.Now().Add(closeTimeout)) //nolint:errcheck // the client has gone
}
