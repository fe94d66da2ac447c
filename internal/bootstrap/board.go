package bootstrap

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// mostRegistered is how many bytes the registry may answer with.
const mostRegistered = 8 << 20

// board is the registry of a real discovery service.
type board struct {
	client  *clientv3.Client
	timeout time.Duration // of one request
}

// dial prepares to speak with the service. It must answer only if this member has
// to log in.
func (d Discovery) dial(ctx context.Context, secure *tls.Config) (*board, error) {
	user, password := d.User, d.Password
	if password == "" {
		user, password, _ = strings.Cut(user, ":")
	}
	client, err := clientv3.New(clientv3.Config{
		Context:              ctx,
		Endpoints:            d.Endpoints,
		DialTimeout:          d.DialTimeout,
		DialKeepAliveTime:    d.KeepAliveTime,
		DialKeepAliveTimeout: d.KeepAliveTimeout,
		MaxCallRecvMsgSize:   mostRegistered,
		TLS:                  secure,
		Username:             user,
		Password:             password,
		Logger:               zap.NewNop(), // what matters is logged here
	})
	if err != nil {
		return nil, fmt.Errorf("connect to the discovery service: %w", err)
	}
	return &board{client, d.RequestTimeout}, nil
}

// secure is nil without TLS.
func (d Discovery) secure() (*tls.Config, error) {
	files := d.CertFile != "" || d.KeyFile != "" || d.CAFile != ""
	if !files && d.InsecureTransport && !d.InsecureSkipVerify {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: d.InsecureSkipVerify} //nolint:gosec // the operator asked for it
	if d.CertFile != "" || d.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(d.CertFile, d.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("discovery-cert: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	if d.CAFile != "" {
		text, err := os.ReadFile(d.CAFile)
		if err != nil {
			return nil, fmt.Errorf("discovery-cacert: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("discovery-cacert: no certificate in %s", d.CAFile)
		}
	}
	return c, nil
}

func (b *board) close() { b.client.Close() }

func (b *board) value(ctx context.Context, key string) (string, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	answer, err := b.client.Get(ctx, key)
	if err != nil || len(answer.Kvs) == 0 {
		return "", false, err
	}
	return string(answer.Kvs[0].Value), true, nil
}

func (b *board) list(ctx context.Context, prefix string) ([]entry, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	answer, err := b.client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, 0, err
	}
	rows := make([]entry, 0, len(answer.Kvs))
	for _, kv := range answer.Kvs {
		rows = append(rows, entry{string(kv.Key), string(kv.Value), kv.CreateRevision})
	}
	return rows, answer.Header.GetRevision(), nil
}

func (b *board) put(ctx context.Context, key, value string) error {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	_, err := b.client.Put(ctx, key, value)
	return err
}

func (b *board) remove(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	_, err := b.client.Delete(ctx, key)
	return err
}

func (b *board) changed(ctx context.Context, prefix string, after int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the watch
	for answer := range b.client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(after+1)) {
		if err := answer.Err(); err != nil {
			return err
		}
		if len(answer.Events) > 0 {
			return nil
		}
	}
	return errors.New("the watch has ended")
}
