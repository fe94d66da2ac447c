package main

import (
	"context"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Keep-alives: so many streams, each for so many leases, together at a fixed
// pace.
const (
	keepStreams   = 64
	keepLeases    = 32 // of each stream
	keepPerSecond = 10_000
)

// keepAlives renews leases at a fixed pace. A caller that is late makes up for no
// more than a second.
func keepAlives(ctx context.Context, st *stage) (metrics, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // the streams
	conns, closeAll, err := dialMany(st.process.addr, 8)
	if err != nil {
		return nil, err
	}
	defer closeAll()
	const every = time.Second * keepStreams / keepPerSecond
	var ops []op
	for i := range keepStreams {
		k, err := openKeeper(ctx, conns[i%len(conns)])
		if err != nil {
			return nil, err
		}
		next := time.Now().Add(time.Duration(i) * every / keepStreams)
		ops = append(ops, func(context.Context) error {
			time.Sleep(time.Until(next))
			if next = next.Add(every); time.Since(next) > time.Second {
				next = time.Now()
			}
			return k.renew()
		})
	}
	if _, err := drive(ctx, ops, st.warm, st.limit); err != nil {
		return nil, fmt.Errorf("while warming up: %w", err)
	}
	return st.window("keepalive", func() (tally, error) { return drive(ctx, ops, st.duration, st.limit) })
}

// keeper keeps leases alive on a stream of its own.
type keeper struct {
	stream grpc.ClientStream
	leases []int64
	out    reply
	calls  int
}

func openKeeper(ctx context.Context, conn *grpc.ClientConn) (*keeper, error) {
	k := &keeper{}
	for range keepLeases {
		var out reply
		out.keep = true
		if err := conn.Invoke(ctx, methodLeaseGrant, &request{appendLeaseGrant(nil, leaseSeconds)}, &out); err != nil {
			return nil, fmt.Errorf("grant a lease: %w", err)
		}
		var r pb.LeaseGrantResponse
		if err := proto.Unmarshal(out.body, &r); err != nil {
			return nil, err
		}
		k.leases = append(k.leases, r.ID)
	}
	var err error
	k.stream, err = conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, methodKeepAlive)
	return k, err
}

// renew renews the next lease.
func (k *keeper) renew() error {
	id := k.leases[k.calls%len(k.leases)]
	k.out.keep = k.calls%sampleSmall == 0
	k.calls++
	if err := k.stream.SendMsg(&request{appendInt(nil, 1, id)}); err != nil {
		return err
	}
	if err := k.stream.RecvMsg(&k.out); err != nil || !k.out.keep {
		return err
	}
	var r pb.LeaseKeepAliveResponse
	if err := proto.Unmarshal(k.out.body, &r); err != nil {
		return err
	}
	if r.ID != id || r.TTL != leaseSeconds {
		return fmt.Errorf("lease %x is renewed as %x for %d s", id, r.ID, r.TTL)
	}
	return nil
}
