package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	memberListMethod = "/etcdserverpb.Cluster/MemberList"
	registerAgain    = time.Second     // at least, between two tries to register
	registerLimit    = 5 * time.Second // for a member to answer
)

// Registration is where proxies write down that they serve, for clients that
// look for one. The row of a proxy goes with it.
type Registration struct {
	Prefix  string        // of the rows' keys; "": the proxy is not registered
	Address string        // host:port at which clients reach this proxy
	TTL     time.Duration // how long the row stays when the proxy is gone; whole seconds
}

// row is what etcd's resolver reads.
type row struct {
	Op       int
	Addr     string
	Metadata string // JSON again
}

type rowMetadata struct {
	Name string `json:"name"`
}

func (r Registration) key() []byte { return []byte(r.Prefix + "/" + r.Address) }

func (r Registration) value() ([]byte, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	metadata, err := json.Marshal(rowMetadata{host})
	if err != nil {
		return nil, err
	}
	return json.Marshal(row{Addr: r.Address, Metadata: string(metadata)})
}

// register keeps the proxy's row until ctx ends, then removes it.
func (p *Proxy) register(ctx context.Context) {
	for ctx.Err() == nil {
		err := p.registerOnce(ctx)
		if ctx.Err() == nil {
			p.log.Warn("this proxy is not registered; trying again", "prefix", p.o.Registration.Prefix, "error", err)
		}
		select {
		case <-time.After(registerAgain):
		case <-ctx.Done():
		}
	}
}

// registerOnce writes the row under a lease and renews that as long as it lives.
func (p *Proxy) registerOnce(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, registerLimit)
	defer cancel()
	leases, r := pb.NewLeaseClient(p.Local()), p.o.Registration
	lease, err := leases.LeaseGrant(limited, &pb.LeaseGrantRequest{TTL: int64(r.TTL / time.Second)})
	if err != nil {
		return err
	}
	defer func() {
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), registerLimit)
		defer cancel()
		if _, err := leases.LeaseRevoke(limited, &pb.LeaseRevokeRequest{ID: lease.ID}); err != nil {
			p.log.Debug("the lease of this proxy's row is left to expire", "error", err)
		}
	}()
	value, err := r.value()
	if err != nil {
		return err
	}
	if _, err := pb.NewKVClient(p.Local()).Put(limited, &pb.PutRequest{Key: r.key(), Value: value, Lease: lease.ID}); err != nil {
		return err
	}
	p.log.Info("registered this proxy", "key", string(r.key()), "lease-ttl", r.TTL)
	renew := time.NewTicker(r.TTL / 3)
	defer renew.Stop()
	for {
		select {
		case <-renew.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := renewOnce(ctx, leases, lease.ID, r.TTL/3); err != nil {
			return err
		}
	}
}

func renewOnce(ctx context.Context, leases pb.LeaseClient, id int64, limit time.Duration) error {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	s, err := leases.LeaseKeepAlive(limited)
	if err != nil {
		return err
	}
	if err := s.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil && !errors.Is(err, io.EOF) { // which says only that Recv tells the reason
		return err
	}
	answer, err := s.Recv()
	if err == nil && answer.TTL <= 0 {
		err = errLeaseOver
	}
	return err
}

var errLeaseOver = errors.New("the lease has expired")

// registered answers who the members are with the proxies that are registered,
// so that clients which go where the members are stay with proxies. The caller
// must be allowed to read the rows.
func (p *Proxy) registered(ctx context.Context) (*pb.MemberListResponse, error) {
	prefix := namespace(p.o.Registration.Prefix + "/")
	rows, err := pb.NewKVClient(p.Local()).Range(ctx, &pb.RangeRequest{Key: prefix, RangeEnd: prefix.end()})
	if err != nil {
		return nil, err
	}
	answer := &pb.MemberListResponse{Header: rows.Header}
	for _, kv := range rows.Kvs {
		var r row
		var m rowMetadata
		if json.Unmarshal(kv.Value, &r) != nil || r.Addr == "" {
			continue // somebody else's
		}
		_ = json.Unmarshal([]byte(r.Metadata), &m) // a name is not needed
		answer.Members = append(answer.Members, &pb.Member{Name: m.Name, ClientURLs: []string{r.Addr}})
	}
	return answer, nil
}
