package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
)

const gatewayCallers = 64

// gatewayPut puts through the JSON gateway, each caller on an HTTP/1 connection
// of its own.
func gatewayPut(ctx context.Context, st *stage) (metrics, error) {
	var ops []op
	for i := range gatewayCallers {
		conn, err := net.Dial("tcp", st.process.addr)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		b := &browser{conn: conn, answers: bufio.NewReader(conn), host: st.process.addr}
		ops = append(ops, b.putOp(rand.New(rand.NewPCG(st.seed, uint64(i)))))
	}
	if _, err := drive(ctx, ops, st.warm, st.limit); err != nil {
		return nil, fmt.Errorf("while warming up: %w", err)
	}
	return st.window("gateway", func() (tally, error) { return drive(ctx, ops, st.duration, st.limit) })
}

// browser is one HTTP/1 connection.
type browser struct {
	conn    net.Conn
	answers *bufio.Reader
	host    string
	out     []byte
	body    []byte
	calls   int
	last    int64
}

// putOp puts a random key.
func (b *browser) putOp(rng *rand.Rand) op {
	return func(ctx context.Context) error {
		number := rng.IntN(small.n)
		b.body = append(b.body[:0], `{"key":"`...)
		b.body = base64.StdEncoding.AppendEncode(b.body, small.key(number))
		b.body = append(b.body, `","value":"`...)
		b.body = base64.StdEncoding.AppendEncode(b.body, small.value(number))
		b.body = append(b.body, `"}`...)
		b.out = append(b.out[:0], "POST /v3/kv/put HTTP/1.1\r\nHost: "...)
		b.out = append(b.out, b.host...)
		b.out = append(b.out, "\r\nContent-Type: application/json\r\nContent-Length: "...)
		b.out = strconv.AppendInt(b.out, int64(len(b.body)), 10)
		b.out = append(b.out, "\r\n\r\n"...)
		b.out = append(b.out, b.body...)
		return b.call(ctx)
	}
}

// call sends what is written and looks at the answer: at each status, and at the
// whole of one in so many.
func (b *browser) call(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && b.calls%sampleSmall == 0 {
		if err := b.conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	if _, err := b.conn.Write(b.out); err != nil {
		return err
	}
	r, err := http.ReadResponse(b.answers, nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	sample := b.calls%sampleSmall == 0
	b.calls++
	if r.StatusCode != http.StatusOK || sample {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		if r.StatusCode != http.StatusOK {
			return fmt.Errorf("put through the gateway: %s: %s", r.Status, body)
		}
		return b.check(body)
	}
	_, err = io.Copy(io.Discard, r.Body)
	return err
}

func (b *browser) check(body []byte) error {
	var answer struct {
		Header struct {
			Revision int64 `json:"revision,string"`
		} `json:"header"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("put through the gateway: %w: %s", err, body)
	}
	return later(&b.last, answer.Header.Revision)
}
