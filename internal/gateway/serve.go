package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// Limits of an HTTP/1 connection.
const (
	headerTimeout = 5 * time.Minute // to send a request's headers, as etcd has it
	headerBytes   = 1 << 20
	bodyBytes     = 8 << 20 // of a request; nothing that a Gateway serves reads a long one
	idleTimeout   = 10 * time.Minute
	grace         = time.Second // for requests to come and to finish, each, at the end
)

// Serve serves handler on the listeners until ctx ends, and returns when all
// requests have ended. It closes the listeners. The handler bounds the bodies that
// it reads, as those of a Gateway do. Prepare, if not nil, may change the server
// before it serves: it knows what kind of connections and requests come in.
func Serve(ctx context.Context, handler http.Handler, prepare func(*http.Server), listeners ...net.Listener) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		MaxHeaderBytes:    headerBytes,
		IdleTimeout:       idleTimeout,
	}
	if prepare != nil {
		prepare(server)
	}
	fresh := &newcomers{conns: map[net.Conn]bool{}, fewer: make(chan struct{}, 1)}
	fresh.follow(server)
	failed := make(chan error, len(listeners))
	var serving sync.WaitGroup
	for _, l := range listeners {
		serving.Go(func() {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) && ctx.Err() == nil {
				failed <- fmt.Errorf("serve HTTP on %s: %w", l.Addr(), err)
			}
		})
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	fresh.wait(grace)
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if server.Shutdown(last) != nil {
		server.Close() //nolint:errcheck // it ends what did not end by itself
	}
	serving.Wait()
	return err
}
