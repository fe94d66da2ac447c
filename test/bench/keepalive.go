package main

import (
	"context"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Keep-alives come at a fixed pace. etcd's client looks twice a second which of
// its leases are due, and sends for all of them at once; so do clients here. Beside
// that, the same number is sent evenly, where what the server's network costs
// hides all else.
const (
	keepPerSecond = 10_000
	keepClients   = 10
	keepTick      = 500 * time.Millisecond
	keepBurst     = int(keepPerSecond * int64(keepTick) / int64(time.Second) / keepClients)
	keepStreams   = 64 // when they are sent evenly
	keepLeases    = 32 // of each of these
)

// keepBursts renews leases as etcd's clients do.
func keepBursts(ctx context.Context, st *stage) (metrics, error) {
	m, err := keep(ctx, st, "keepalive", keepClients, keepBurst, keepTick, keepBurst)
	if err == nil {
		for _, name := range []string{cpuPerOp, generatorCPU, writtenPerOp} {
			m[name] /= float64(keepBurst)
		}
		for _, name := range []string{"ops", opsPerSecond} {
			m[name] *= float64(keepBurst)
		}
	}
	return m, err
}

// keepEvenly renews one lease at a time.
func keepEvenly(ctx context.Context, st *stage) (metrics, error) {
	return keep(ctx, st, "keepalive1", keepStreams, keepLeases, time.Second*keepStreams/keepPerSecond, 1)
}

// keep lets each client renew so many leases at once, every so often. A client
// that is late makes up for no more than a second.
func keep(ctx context.Context, st *stage, name string, clients, leases int, every time.Duration, burst int) (metrics, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // the streams
	conns, closeAll, err := dialMany(st.process.addr, min(clients, keepClients))
	if err != nil {
		return nil, err
	}
	defer closeAll()
	var ops []op
	for i := range clients {
		k, err := openKeeper(ctx, conns[i%len(conns)], leases)
		if err != nil {
			return nil, err
		}
		next := time.Now().Add(time.Duration(i) * every / time.Duration(clients))
		ops = append(ops, func(context.Context) error {
			time.Sleep(time.Until(next))
			if next = next.Add(every); time.Since(next) > time.Second {
				next = time.Now()
			}
			return k.renew(burst)
		})
	}
	if _, err := drive(ctx, ops, st.warm, st.limit); err != nil {
		return nil, fmt.Errorf("while warming up: %w", err)
	}
	m, err := st.window(name, func() (tally, error) { return drive(ctx, ops, st.duration, st.limit) })
	if err == nil {
		delete(m, latencyMedian) // it holds the wait for the next tick
		delete(m, latencyTail)
	}
	return m, err
}

// keeper keeps leases alive on a stream of its own.
type keeper struct {
	stream grpc.ClientStream
	leases []int64
	out    reply
	sent   int
	heard  int
}

func openKeeper(ctx context.Context, conn *grpc.ClientConn, leases int) (*keeper, error) {
	k := &keeper{}
	for range leases {
		out := reply{keep: true}
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

// renew renews the next leases: all are asked for before an answer is read.
func (k *keeper) renew(n int) error {
	for range n {
		if err := k.stream.SendMsg(&request{appendInt(nil, 1, k.leases[k.sent%len(k.leases)])}); err != nil {
			return err
		}
		k.sent++
	}
	for range n {
		if err := k.hear(); err != nil {
			return err
		}
	}
	return nil
}

// hear takes the next answer, and looks at one in so many.
func (k *keeper) hear() error {
	id := k.leases[k.heard%len(k.leases)]
	k.out.keep = k.heard%sampleSmall == 0
	k.heard++
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
