package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// statusEvery is how often it is looked whether there is news to report.
const statusEvery = time.Second

// watch tries the endpoints at first, and again and again; it asks DNS again, too.
func (r *Relay) watch(ctx context.Context) {
	due := time.NewTicker(r.o.RetryDelay)
	defer due.Stop()
	look := time.NewTicker(statusEvery)
	defer look.Stop()
	for {
		r.tryAll(ctx)
		r.report()
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return
			case <-look.C:
				r.report()
				continue
			case <-due.C:
			case <-r.again:
			}
			waiting = false
		}
		r.rediscover(ctx)
	}
}

// rediscover takes over what DNS says now.
func (r *Relay) rediscover(ctx context.Context) {
	if r.o.SRV.Domain == "" {
		return
	}
	found, err := r.lookUp(ctx)
	if err == nil {
		err = r.notItself(ctx, found)
	}
	switch {
	case ctx.Err() != nil:
	case err != nil:
		r.log.Warn("the endpoints are not discovered anew; going on with those that are known", "discovery-srv", r.o.SRV.Domain, "error", err)
	default:
		r.targets.replace(found)
	}
}

// tryAll tries at once all endpoints that are not active, or have to show a
// certificate: whether they still can.
func (r *Relay) tryAll(ctx context.Context) {
	var tries sync.WaitGroup
	for _, t := range r.targets.due() {
		tries.Go(func() {
			active := r.targets.live(t)
			err := r.check(ctx, t)
			switch {
			case ctx.Err() != nil:
			case err != nil && active:
				r.failed(t, err)
			case err != nil:
				r.log.Warn("failed to activate endpoint (stay inactive for another interval)", "address", t.address(), "interval", r.o.RetryDelay, "error", err)
			default:
				r.activated(t)
			}
		})
	}
	tries.Wait()
}

func (r *Relay) activated(t *target) {
	if r.targets.mark(t, true) {
		r.log.Info("activated", "address", t.address())
	}
}

func (r *Relay) failed(t *target, err error) {
	if r.targets.mark(t, false) {
		r.log.Warn("deactivated endpoint", "address", t.address(), "interval", r.o.RetryDelay, "error", err)
	}
}

// check reports whether a client may be sent to an endpoint: it can be reached,
// and shows the right certificate if it has to.
func (r *Relay) check(ctx context.Context, t *target) error {
	if !t.verify {
		conn, err := r.dial(ctx, t.address())
		if err != nil {
			return err
		}
		return conn.Close()
	}
	err := r.verify(ctx, t, t.host)
	var misnamed x509.HostnameError
	if t.named != "" && errors.As(err, &misnamed) {
		return r.verify(ctx, t, t.named)
	}
	return err
}

// verify asks an endpoint for a certificate with a name. That it asks for one, too,
// and gets none, is no matter: it is the client who has to show that.
func (r *Relay) verify(ctx context.Context, t *target, name string) error {
	roots, err := r.roots()
	if err != nil {
		return err
	}
	conn, err := r.dial(ctx, t.address())
	if err != nil {
		return err
	}
	defer conn.Close()
	verified := false
	ctx, cancel := context.WithTimeout(ctx, r.o.DialTimeout)
	defer cancel()
	err = tls.Client(conn, &tls.Config{
		RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"},
		VerifyConnection: func(tls.ConnectionState) error { // called when all else is well
			verified = true
			return nil
		},
	}).HandshakeContext(ctx)
	if verified {
		return nil
	}
	return fmt.Errorf("the certificate of %s is not accepted: %w", t.address(), err)
}

// roots are the authorities that endpoints' certificates are to be signed by, as
// they are now; nil: the system's.
func (r *Relay) roots() (*x509.CertPool, error) {
	if r.o.TrustedCAFile == "" {
		return nil, nil
	}
	f, err := os.Open(r.o.TrustedCAFile)
	if err != nil {
		return nil, fmt.Errorf("read --trusted-ca-file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxBytesCA))
	if err != nil {
		return nil, fmt.Errorf("read --trusted-ca-file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("read --trusted-ca-file: %s holds no certificate in PEM", r.o.TrustedCAFile)
	}
	return pool, nil
}
