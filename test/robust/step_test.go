package robust

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// A record is a key as it must be. A zero create or mod is not known: nobody
// was told.
type record struct {
	value       string
	create, mod int64
	version     int64
	lease       int64
}

// A step is one request of a writer, of one kind or a transaction of several.
type step struct {
	puts   []put
	dels   []string // in key order
	grant  int64
	revoke int64
}

type put struct {
	key, value string
	lease      int64
}

// keysOfAWriter is how many keys a writer has; nobody else writes them, so its steps are their history.
const keysOfAWriter = 8

// choose makes a writer's next step. Every value is written once only.
func (w *writer) choose() step {
	w.count++
	value := fmt.Sprintf("%s-%d", w.prefix, w.count)
	switch n := w.IntN(20); {
	case n < 9:
		return step{puts: []put{{key: w.key(), value: value}}}
	case n < 11 && len(w.leases) > 0:
		return step{puts: []put{{key: w.key(), value: value, lease: w.leases[w.IntN(len(w.leases))]}}}
	case n < 13:
		return step{dels: []string{w.key()}}
	case n < 15 && len(w.leases) < 3:
		return step{grant: w.id()}
	case n < 16 && len(w.leases) > 0:
		return step{revoke: w.leases[w.IntN(len(w.leases))]}
	default: // all of a part of the keys, or none
		var s step
		for i := range keysOfAWriter {
			key := fmt.Sprintf("%s/%d", w.prefix, i)
			switch w.IntN(4) {
			case 0, 1:
				s.puts = append(s.puts, put{key: key, value: value})
			case 2:
				s.dels = append(s.dels, key)
			}
		}
		return s
	}
}

func (w *writer) key() string { return fmt.Sprintf("%s/%d", w.prefix, w.IntN(keysOfAWriter)) }

// id is one that no other lease has.
func (w *writer) id() int64 { return w.Int64()>>1 | 1 }

// send asks a server for the step and returns the revision it answered.
func (s step) send(ctx context.Context, conn *grpc.ClientConn) (revision int64, err error) {
	kv, leases := pb.NewKVClient(conn), pb.NewLeaseClient(conn)
	var answer interface{ GetHeader() *pb.ResponseHeader }
	switch {
	case s.grant != 0:
		answer, err = leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: s.grant, TTL: 100_000})
	case s.revoke != 0:
		answer, err = leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: s.revoke})
	case len(s.puts) == 1 && len(s.dels) == 0:
		answer, err = kv.Put(ctx, s.puts[0].request())
	case len(s.puts) == 0 && len(s.dels) == 1:
		answer, err = kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(s.dels[0])})
	default:
		r := &pb.TxnRequest{}
		for _, p := range s.puts {
			r.Success = append(r.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: p.request()}})
		}
		for _, key := range s.dels {
			r.Success = append(r.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{
				RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key)},
			}})
		}
		answer, err = kv.Txn(ctx, r)
	}
	if err != nil {
		return 0, err
	}
	return answer.GetHeader().Revision, nil
}

func (p put) request() *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(p.key), Value: []byte(p.value), Lease: p.lease}
}

// empty tells whether there is nothing to ask for.
func (s step) empty() bool {
	return len(s.puts) == 0 && len(s.dels) == 0 && s.grant == 0 && s.revoke == 0
}

// after returns what a writer's keys are once the step was done at a revision,
// or at one that nobody was told if it is zero, and the events it makes.
func (s step) after(keys map[string]record, revision int64) (then map[string]record, events []string) {
	then = maps.Clone(keys)
	for _, p := range s.puts {
		was, there := then[p.key]
		now := record{value: p.value, mod: revision, create: revision, version: 1, lease: p.lease}
		if there {
			now.create, now.version = was.create, was.version+1
		}
		then[p.key] = now
		events = append(events, fmt.Sprintf("put %s %s", p.key, p.value))
	}
	dels := s.dels
	if s.revoke != 0 {
		dels = nil
		for key, r := range keys {
			if r.lease == s.revoke {
				dels = append(dels, key)
			}
		}
		slices.Sort(dels)
	}
	for _, key := range dels {
		if _, there := then[key]; there {
			delete(then, key)
			events = append(events, "delete "+key)
		}
	}
	return then, events
}

// leasesAfter returns the leases a writer holds once the step was done.
func (s step) leasesAfter(leases []int64) []int64 {
	then := slices.DeleteFunc(slices.Clone(leases), func(id int64) bool { return id == s.revoke })
	if s.grant != 0 {
		then = append(then, s.grant)
	}
	return then
}

// A writer sends one step after the other. What it knows of its keys follows
// from the answers alone.
type writer struct {
	*rand.Rand
	prefix string
	count  int
	keys   map[string]record
	leases []int64
	acked  map[int64][]string // the events of each revision that was acknowledged
	doubt  *step              // sent, and the server was gone before it answered
}
