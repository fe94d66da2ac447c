package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

const loginCallers = 64

// cpuOfOff is the server's CPU for an operation with authentication on, over that
// with authentication off.
const cpuOfOff = "cpu_of_off"

// dialPlain connects with gRPC's own codec: these calls are few, or dear to the
// server.
func dialPlain(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// guarded runs a workload while authentication is on. Its user may do what the
// work does, and no more.
func guarded(run func(ctx context.Context, st *stage, token string) (metrics, error)) func(context.Context, *stage) (metrics, error) {
	return func(ctx context.Context, st *stage) (m metrics, err error) {
		conn, err := dialPlain(st.process.addr)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		users := pb.NewAuthClient(conn)
		if err := makeUsers(ctx, users); err != nil {
			return nil, err
		}
		if _, err := users.AuthEnable(ctx, &pb.AuthEnableRequest{}); err != nil {
			return nil, fmt.Errorf("turn authentication on: %w", err)
		}
		defer func() {
			err = errors.Join(err, endGuard(context.WithoutCancel(ctx), users))
		}()
		got, err := users.Authenticate(ctx, &pb.AuthenticateRequest{Name: "bench", Password: "benchpw-1"})
		if err != nil {
			return nil, fmt.Errorf("log in: %w", err)
		}
		return run(ctx, st, got.Token)
	}
}

// makeUsers makes root, and bench who may have every key, by ranges.
func makeUsers(ctx context.Context, users pb.AuthClient) error {
	for _, name := range []string{"root", "bench"} {
		_, err := users.UserAdd(ctx, &pb.AuthUserAddRequest{Name: name, Password: name + "pw-1"})
		if err == nil {
			_, err = users.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: name})
		}
		if err == nil {
			_, err = users.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: name, Role: name})
		}
		if err != nil {
			return fmt.Errorf("make user %s: %w", name, err)
		}
	}
	_, err := users.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: "bench", Perm: &authpb.Permission{
		PermType: authpb.READWRITE, Key: []byte{0}, RangeEnd: []byte{0},
	}})
	return err
}

// endGuard leaves the server as it was found: other works follow on it.
func endGuard(ctx context.Context, users pb.AuthClient) error {
	got, err := users.Authenticate(ctx, &pb.AuthenticateRequest{Name: "root", Password: "rootpw-1"})
	if err != nil {
		return fmt.Errorf("log in as root: %w", err)
	}
	if _, err := users.AuthDisable(metadata.AppendToOutgoingContext(ctx, "token", got.Token), &pb.AuthDisableRequest{}); err != nil {
		return fmt.Errorf("turn authentication off: %w", err)
	}
	for _, name := range []string{"root", "bench"} {
		if _, err := users.UserDelete(ctx, &pb.AuthUserDeleteRequest{Name: name}); err != nil {
			return err
		}
		if _, err := users.RoleDelete(ctx, &pb.AuthRoleDeleteRequest{Role: name}); err != nil {
			return err
		}
	}
	return nil
}

// authTurns is how often authentication is switched on and off while authPut runs, so
// that what changes on the machine does not count as what authentication costs.
const (
	authTurns   = 6
	authCallers = 64
)

// authPut is puts with authentication off and on by turns, from authCallers. With a
// pace they come so many a second: the more come at once, the less each costs, and
// with authentication the generator has more to do. Without one, which is 0, they
// come as fast as they are answered.
type authPut struct {
	name      string
	perSecond int
}

func (a authPut) run(ctx context.Context, st *stage) (metrics, error) {
	part := *st
	part.duration, part.warm = st.duration/2, st.warm/2
	works := []func(context.Context, *stage) (metrics, error){a.asNobody, guarded(a.asUser)}
	var ops, cpu [2]float64
	var m metrics
	for turn := range 2 * authTurns {
		which := (turn + 1) / 2 % 2 // off, on, on, off, off, …
		got, err := works[which](ctx, &part)
		if err != nil {
			return nil, err
		}
		ops[which] += got["ops"]
		cpu[which] += got["ops"] * got[cpuPerOp]
		if which == 1 {
			m = got
		}
	}
	m["ops"] = ops[1]
	m[cpuPerOp] = cpu[1] / ops[1]
	m[cpuOfOff] = m[cpuPerOp] / (cpu[0] / ops[0])
	return m, nil
}

func (a authPut) asNobody(ctx context.Context, st *stage) (metrics, error) {
	conns, closeAll, err := dialMany(st.process.addr, 8)
	if err != nil {
		return nil, err
	}
	defer closeAll()
	return st.callers(ctx, a.name+"-off", conns, authCallers, func(c caller) op { return a.paced(putOp(c)) })
}

// paced is an operation at the pace of one of authCallers. One that is late makes up
// for no more than a second.
func (a authPut) paced(do op) op {
	if a.perSecond == 0 {
		return do
	}
	every := time.Second * authCallers / time.Duration(a.perSecond)
	next := time.Now().Add(rand.N(every))
	return func(ctx context.Context) error {
		time.Sleep(time.Until(next))
		if next = next.Add(every); time.Since(next) > time.Second {
			next = time.Now()
		}
		return do(ctx)
	}
}

func (a authPut) asUser(ctx context.Context, st *stage, token string) (metrics, error) {
	conns, closeAll, err := dialMany(st.process.addr, 8)
	if err != nil {
		return nil, err
	}
	defer closeAll()
	return st.callers(ctx, a.name, conns, authCallers, func(c caller) op {
		put := a.paced(putOp(c))
		return func(ctx context.Context) error { return put(metadata.AppendToOutgoingContext(ctx, "token", token)) }
	})
}

// login is users of one name that log in, each again and again.
func login(ctx context.Context, st *stage, _ string) (metrics, error) {
	var conns []*grpc.ClientConn
	for range 8 {
		conn, err := dialPlain(st.process.addr)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	return st.callers(ctx, "login", conns, loginCallers, func(c caller) op { return loginOp(c.conn) })
}

func loginOp(conn *grpc.ClientConn) op {
	users := pb.NewAuthClient(conn)
	return func(ctx context.Context) error {
		got, err := users.Authenticate(ctx, &pb.AuthenticateRequest{Name: "bench", Password: "benchpw-1"})
		if err == nil && got.Token == "" {
			err = errors.New("logged in without a token")
		}
		return err
	}
}
