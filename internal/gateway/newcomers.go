package gateway

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// newcomers are connections whose first request has not come to its handler. A
// server of net/http that is stopped closes without an answer what it reads after
// that; so they are waited for.
type newcomers struct {
	mu    sync.Mutex
	conns map[net.Conn]bool
	fewer chan struct{} // one signal: there are fewer
}

type newcomer struct{}

// follow has the server tell of its connections. It comes after all else that
// changes the server.
func (n *newcomers) follow(server *http.Server) {
	inner, handler := server.ConnContext, server.Handler
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		n.mu.Lock()
		n.conns[conn] = true
		n.mu.Unlock()
		if inner != nil {
			ctx = inner(ctx, conn)
		}
		return context.WithValue(ctx, newcomer{}, conn)
	}
	server.ConnState = func(conn net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			n.forget(conn)
		}
	}
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if conn, ok := r.Context().Value(newcomer{}).(net.Conn); ok {
			n.forget(conn)
		}
		handler.ServeHTTP(w, r)
	})
}

func (n *newcomers) forget(conn net.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, conn)
	select {
	case n.fewer <- struct{}{}:
	default:
	}
}

// wait returns when there are none, or the time is over.
func (n *newcomers) wait(limit time.Duration) {
	over := time.NewTimer(limit)
	defer over.Stop()
	for {
		n.mu.Lock()
		none := len(n.conns) == 0
		n.mu.Unlock()
		if none {
			return
		}
		select {
		case <-n.fewer:
		case <-over.C:
			return
		}
	}
}
