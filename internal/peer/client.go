package peer

import (
	"context"
	"crypto/tls"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/lease"
	"kvd/internal/member"
)

// ClientOptions tune a client. A zero field takes the default named beside it.
type ClientOptions struct {
	TLS          *tls.Config   // for https URLs; offers no protocol but http/1.1
	LocalAddress string        // IP that connections come from; the kernel's choice
	Election     time.Duration // election timeout, part of the timeouts for dialling and requests; 1 s
}

// Client asks other members over their peer ports. Every call tries each URL
// once, in order, until one gives an answer that counts; who wants more tries
// again. Redirects are not followed.
type Client struct{}

// NewClient makes a client. It connects when asked.
func NewClient(o ClientOptions) *Client { panic("not yet") }

// Close lets go of idle connections.
func (c *Client) Close() { panic("not yet") }

// Members asks a member who is in its cluster.
func (c *Client) Members(ctx context.Context, url string) (member.ClusterID, []member.Member, error) {
	panic("not yet")
}

// Versions asks a member for its versions.
func (c *Client) Versions(ctx context.Context, url string) (Versions, error) { panic("not yet") }

// DowngradeEnabled asks whether the cluster is being downgraded.
func (c *Client) DowngradeEnabled(ctx context.Context, url string) (bool, error) { panic("not yet") }

// HashKV asks for the hash of the keyspace at a revision; 0 is the present one.
// Errors are ErrMismatch, mvcc.ErrCompacted, mvcc.ErrFuture and others.
func (c *Client) HashKV(ctx context.Context, urls []string, cluster member.ClusterID, rev int64) (Hash, error) {
	panic("not yet")
}

// Promote asks the leader to make a voter of a learner; token is what the client
// has shown, if it has. Errors are member.ErrNotFound, member.ErrNotLearner,
// ErrNotReady, ErrTimeout and others.
func (c *Client) Promote(ctx context.Context, urls []string, id member.ID, token string) ([]member.Member, error) {
	panic("not yet")
}

// Renew asks the leader to renew a lease. Errors are lease.ErrNotFound,
// ErrBehind and others; of the others etcd asks again after 50 ms.
func (c *Client) Renew(ctx context.Context, urls []string, id lease.ID) (ttl int64, err error) {
	panic("not yet")
}

// TimeToLive asks the leader how long a lease has left. Errors are those of
// Renew.
func (c *Client) TimeToLive(ctx context.Context, urls []string, id lease.ID, keys bool) (*pb.LeaseTimeToLiveResponse, error) {
	panic("not yet")
}

// Token is what the client of a member that forwards a request has shown.
func Token(ctx context.Context) string {
	token, _ := ctx.Value(tokenKey{}).(string)
	return token
}

type tokenKey struct{}
