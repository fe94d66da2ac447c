package listen

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
)

// stateKey is where KeepTLS keeps the state of a connection.
type stateKey struct{}

// KeepTLS makes the requests of a web server carry the TLS state of their
// connection in Request.TLS. Package http fills it in only for connections
// that it sees to be of TLS, and behind a Split it does not. To be called
// once, before the server serves.
func KeepTLS(server *http.Server) {
	inner, handler := server.ConnContext, server.Handler
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		if inner != nil {
			ctx = inner(ctx, conn)
		}
		if state, ok := ConnectionState(conn); ok {
			ctx = context.WithValue(ctx, stateKey{}, &state)
		}
		return ctx
	}
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if state, ok := r.Context().Value(stateKey{}).(*tls.ConnectionState); ok && r.TLS == nil {
			r.TLS = state
		}
		handler.ServeHTTP(w, r)
	})
}
