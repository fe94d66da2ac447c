package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// pageBytes bounds what is read of a page of a member's client port.
const pageBytes = 16 << 20

// tlsConfig is how we speak TLS to an endpoint; nil where it has none.
func (s *session) tlsConfig(endpoint string) (*tls.Config, error) {
	if !strings.HasPrefix(endpoint, "https://") {
		return nil, nil
	}
	cfg, err := clientv3.NewClientConfig(&clientv3.ConfigSpec{Endpoints: []string{endpoint}, Secure: s.spec.Secure}, s.log)
	if err != nil {
		return nil, err
	}
	return cfg.TLS, nil
}

// reach connects to an endpoint and leaves again. The client library would go
// on trying and in the end know no reason.
func (s *session) reach(ctx context.Context, endpoint string) error {
	address := endpoint
	if _, rest, found := strings.Cut(endpoint, "://"); found {
		address = rest
	}
	if strings.HasPrefix(endpoint, "unix") {
		return nil // seldom, and told apart from the rest by the library
	}
	secure, err := s.tlsConfig(endpoint)
	if err != nil {
		return err
	}
	var conn net.Conn
	if secure == nil {
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", address)
	} else {
		conn, err = (&tls.Dialer{Config: secure}).DialContext(ctx, "tcp", address)
	}
	if err != nil {
		return err
	}
	return conn.Close()
}

// fetch reads a page of an endpoint's client port.
func (s *session) fetch(ctx context.Context, endpoint, path string) (io.ReadCloser, error) {
	url := endpoint
	if !strings.Contains(url, "://") {
		url = "http://" + url
	}
	secure, err := s.tlsConfig(endpoint)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+path, nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: secure, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("%s: %s", url+path, resp.Status)
	}
	return resp.Body, nil
}

// residentBytes is how much memory the first endpoint's server has, as its
// metrics tell.
func (s *session) residentBytes() (float64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	body, err := s.fetch(ctx, s.spec.Endpoints[0], "/metrics")
	if err != nil {
		return 0, err
	}
	defer body.Close()
	lines := bufio.NewScanner(io.LimitReader(body, pageBytes))
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), "process_resident_memory_bytes "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, errors.Join(lines.Err(), errors.New("the server's metrics do not tell"))
}
