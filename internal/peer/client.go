package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"kvd/internal/lease"
	"kvd/internal/member"
	"kvd/internal/mvcc"
)

const (
	membersTimeout = 10 * time.Second
	textBytes      = 16 << 20  // the largest answer that is JSON
	leaseBytes     = 100 << 20 // the largest about a lease: it may have many keys
)

// ClientOptions tune a client. A zero field takes the default named beside it.
type ClientOptions struct {
	TLS          func() *tls.Config // for https URLs, asked for each request; offers no protocol but http/1.1
	LocalAddress string             // IP that connections come from; the kernel's choice
	Election     time.Duration      // election timeout, part of the timeouts for dialling and requests; 1 s
}

// Client asks other members over their peer ports. Every call tries each URL
// once, in order, until one gives an answer that counts; who wants more tries
// again. Redirects are not followed. A request ends with its context, and after
// 5 s and two election timeouts at the latest, Members after 10 s.
type Client struct {
	http    *http.Client
	over    *roads
	timeout time.Duration
}

// NewClient makes a client. It connects when asked.
func NewClient(o ClientOptions) *Client {
	if o.Election == 0 {
		o.Election = time.Second
	}
	return newClient(newWire(o.TLS, o.LocalAddress, o.Election).roads(0, 5*time.Second, true), o.Election)
}

func newClient(over *roads, election time.Duration) *Client {
	asIs := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{
		http: &http.Client{Transport: over, CheckRedirect: asIs},
		over: over, timeout: 5*time.Second + 2*election,
	}
}

// Close lets go of idle connections.
func (c *Client) Close() { c.over.CloseIdleConnections() }

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// unexpected is the error of an answer that means nothing.
func (a *answer) unexpected() error {
	return fmt.Errorf("unexpected answer %d %q", a.status, a.body[:min(len(a.body), 200)])
}

// ask sends a request and reads the answer, of so many bytes at most.
func (c *Client) ask(ctx context.Context, verb, url, path string, header map[string]string, body []byte, limit int64) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	a, err := c.send(ctx, verb, base(url)+path, header, body, limit)
	if err != nil {
		return nil, fmt.Errorf("ask %s of %s: %w", path, url, err)
	}
	return a, nil
}

func (c *Client) send(ctx context.Context, verb, url string, header map[string]string, body []byte, limit int64) (*answer, error) {
	var content io.Reader
	if body != nil {
		content = bytes.NewReader(body)
	}
	request, err := http.NewRequestWithContext(ctx, verb, url, content)
	if err != nil {
		return nil, err
	}
	for name, value := range header {
		request.Header.Set(name, value)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("the answer: %w: more than %d bytes", errTooLarge, limit)
	}
	return &answer{status: response.StatusCode, header: response.Header, body: text}, nil
}

// settled are errors that no other URL of the same member would answer
// otherwise.
var settled = []error{
	member.ErrNotFound, member.ErrNotLearner, ErrNotReady, lease.ErrNotFound, mvcc.ErrCompacted, mvcc.ErrFuture, ErrMismatch,
}

// try asks one URL after the other until there is an answer that counts.
func try[T any](ctx context.Context, urls []string, ask func(url string) (T, error)) (T, error) {
	var none T
	err := errors.New("no URL to ask")
	for _, url := range urls {
		var it T
		if it, err = ask(url); err == nil {
			return it, nil
		}
		for _, s := range settled {
			if errors.Is(err, s) {
				return none, err
			}
		}
		if ctx.Err() != nil {
			break
		}
	}
	return none, err
}

// Members asks a member who is in its cluster.
func (c *Client) Members(ctx context.Context, url string) (member.ClusterID, []member.Member, error) {
	patient := *c
	patient.timeout = membersTimeout
	a, err := patient.ask(ctx, http.MethodGet, url, "/members", nil, nil, textBytes)
	if err != nil {
		return 0, nil, err
	}
	members, err := a.members()
	if err != nil {
		return 0, nil, fmt.Errorf("members according to %s: %w", url, err)
	}
	id, err := member.ParseID(a.header.Get(headerCluster))
	if err != nil {
		return 0, nil, fmt.Errorf("members according to %s: cluster ID: %w", url, err)
	}
	return member.ClusterID(id), members, nil
}

func (a *answer) members() (members []member.Member, err error) {
	if a.status != http.StatusOK {
		return nil, a.unexpected()
	}
	if err := json.Unmarshal(a.body, &members); err != nil {
		return nil, err
	}
	return members, nil
}

// Versions asks a member for its versions.
func (c *Client) Versions(ctx context.Context, url string) (Versions, error) {
	a, err := c.ask(ctx, http.MethodGet, url, "/version", nil, nil, textBytes)
	if err != nil {
		return Versions{}, err
	}
	var v versionsJSON
	if a.status != http.StatusOK || json.Unmarshal(a.body, &v) != nil {
		return Versions{}, fmt.Errorf("version of %s: %w", url, a.unexpected())
	}
	if v.Cluster == "not_decided" {
		v.Cluster = ""
	}
	if v.Storage == "unknown" {
		v.Storage = ""
	}
	return Versions(v), nil
}

// DowngradeEnabled asks whether the cluster is being downgraded.
func (c *Client) DowngradeEnabled(ctx context.Context, url string) (bool, error) {
	a, err := c.ask(ctx, http.MethodGet, url, "/downgrade/enabled", nil, nil, textBytes)
	if err != nil {
		return false, err
	}
	enabled, err := strconv.ParseBool(string(a.body))
	if a.status != http.StatusOK || err != nil {
		return false, fmt.Errorf("downgrade according to %s: %w", url, a.unexpected())
	}
	return enabled, nil
}

// HashKV asks for the hash of the keyspace at a revision; 0 is the present one.
// Errors are ErrMismatch, mvcc.ErrCompacted, mvcc.ErrFuture and others.
func (c *Client) HashKV(ctx context.Context, urls []string, cluster member.ClusterID, rev int64) (Hash, error) {
	question, err := json.Marshal(&pb.HashKVRequest{Revision: rev})
	if err != nil {
		return Hash{}, err
	}
	header := map[string]string{"Content-Type": "application/json", headerCluster: cluster.String()}
	return try(ctx, urls, func(url string) (Hash, error) {
		a, err := c.ask(ctx, http.MethodGet, url, "/members/hashkv", header, question, textBytes)
		if err != nil {
			return Hash{}, err
		}
		if err := a.hashFault(); err != nil {
			return Hash{}, fmt.Errorf("hash of %s at revision %d: %w", url, rev, err)
		}
		var h pb.HashKVResponse
		if err := json.Unmarshal(a.body, &h); err != nil {
			return Hash{}, fmt.Errorf("hash of %s at revision %d: %w", url, rev, err)
		}
		return Hash{Hash: h.Hash, Revision: h.GetHeader().GetRevision(), Compacted: h.CompactRevision, At: h.HashRevision}, nil
	})
}

func (a *answer) hashFault() error {
	text := string(a.body)
	switch {
	case a.status == http.StatusOK:
		return nil
	case a.status == http.StatusBadRequest && strings.Contains(text, textCompacted):
		return mvcc.ErrCompacted
	case a.status == http.StatusBadRequest && strings.Contains(text, textFuture):
		return mvcc.ErrFuture
	case a.status == http.StatusPreconditionFailed && strings.Contains(text, ErrMismatch.Error()):
		return ErrMismatch
	default:
		return a.unexpected()
	}
}

// Promote asks the leader to make a voter of a learner; token is what the client
// has shown, if it has. Errors are member.ErrNotFound, member.ErrNotLearner,
// ErrNotReady, ErrTimeout and others.
func (c *Client) Promote(ctx context.Context, urls []string, id member.ID, token string) ([]member.Member, error) {
	header := map[string]string{}
	if token != "" {
		header["Authorization"] = token
	}
	path := "/members/promote/" + strconv.FormatUint(uint64(id), 10)
	return try(ctx, urls, func(url string) ([]member.Member, error) {
		a, err := c.ask(ctx, http.MethodPost, url, path, header, nil, textBytes)
		if err != nil {
			return nil, err
		}
		if err := a.promotionFault(); err != nil {
			return nil, fmt.Errorf("promote member %s: %w", id, err)
		}
		return a.members()
	})
}

func (a *answer) promotionFault() error {
	switch {
	case a.status == http.StatusOK:
		return nil
	case a.status == http.StatusRequestTimeout:
		return ErrTimeout
	case a.status == http.StatusNotFound:
		return member.ErrNotFound
	case a.status == http.StatusPreconditionFailed && strings.Contains(string(a.body), ErrNotReady.Error()):
		return ErrNotReady
	case a.status == http.StatusPreconditionFailed && strings.Contains(string(a.body), member.ErrNotLearner.Error()):
		return member.ErrNotLearner
	default:
		return a.unexpected()
	}
}

// Renew asks the leader to renew a lease. Errors are lease.ErrNotFound,
// ErrBehind and others; of the others etcd asks again after 50 ms.
func (c *Client) Renew(ctx context.Context, urls []string, id lease.ID) (ttl int64, err error) {
	question, err := proto.Marshal(&pb.LeaseKeepAliveRequest{ID: int64(id)})
	if err != nil {
		return 0, err
	}
	return try(ctx, urls, func(url string) (int64, error) {
		text, err := c.askLease(ctx, url, "/leases", question)
		if err != nil {
			return 0, fmt.Errorf("renew lease %x: %w", int64(id), err)
		}
		var kept pb.LeaseKeepAliveResponse
		if err := proto.Unmarshal(text, &kept); err != nil {
			return 0, fmt.Errorf("renew lease %x: %w", int64(id), err)
		}
		if kept.ID != int64(id) {
			return 0, fmt.Errorf("renew lease %x: the answer is about %x", int64(id), kept.ID)
		}
		return kept.TTL, nil
	})
}

// TimeToLive asks the leader how long a lease has left. Errors are those of
// Renew.
func (c *Client) TimeToLive(ctx context.Context, urls []string, id lease.ID, keys bool) (*pb.LeaseTimeToLiveResponse, error) {
	question, err := proto.Marshal(&pb.LeaseTimeToLiveRequest{ID: int64(id), Keys: keys})
	if err != nil {
		return nil, err
	}
	return try(ctx, urls, func(url string) (*pb.LeaseTimeToLiveResponse, error) {
		text, err := c.askLease(ctx, url, "/leases/internal", wrap(question))
		if err != nil {
			return nil, fmt.Errorf("time to live of lease %x: %w", int64(id), err)
		}
		inner, err := unwrap(text)
		if err != nil {
			return nil, fmt.Errorf("time to live of lease %x: %w", int64(id), err)
		}
		left := &pb.LeaseTimeToLiveResponse{}
		if err := proto.Unmarshal(inner, left); err != nil {
			return nil, fmt.Errorf("time to live of lease %x: %w", int64(id), err)
		}
		if left.ID != int64(id) {
			return nil, fmt.Errorf("time to live of lease %x: the answer is about %x", int64(id), left.ID)
		}
		return left, nil
	})
}

func (c *Client) askLease(ctx context.Context, url, path string, question []byte) ([]byte, error) {
	a, err := c.ask(ctx, http.MethodPost, url, path, map[string]string{"Content-Type": "application/protobuf"}, question, leaseBytes)
	if err != nil {
		return nil, err
	}
	switch a.status {
	case http.StatusOK:
		return a.body, nil
	case http.StatusNotFound:
		return nil, lease.ErrNotFound
	case http.StatusRequestTimeout:
		return nil, ErrBehind
	default:
		if strings.Contains(string(a.body), ErrNotLeader.Error()) {
			return nil, ErrNotLeader
		}
		return nil, a.unexpected()
	}
}
