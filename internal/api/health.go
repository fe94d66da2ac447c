package api

import (
	"context"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
)

// services are all that is served. Reflection is not: it would tell strangers
// what there is.
func (a *API) services() []*grpc.ServiceDesc {
	return []*grpc.ServiceDesc{
		a.kvService(), a.watchService(), a.leaseService(), a.clusterService(), a.maintenanceService(), a.authService(), a.healthService(),
		a.electionService(), a.lockService(),
	}
}

// healthService is gRPC's own health service, behind the same checks as the
// others.
func (a *API) healthService() *grpc.ServiceDesc {
	const name = "grpc.health.v1.Health"
	return &grpc.ServiceDesc{
		ServiceName: name,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			unary(a, name, "Check", decoded[healthpb.HealthCheckRequest], func(ctx context.Context, r *healthpb.HealthCheckRequest, _ []byte) (any, error) {
				return a.health.Check(ctx, r)
			}),
			unary(a, name, "List", decoded[healthpb.HealthListRequest], func(ctx context.Context, r *healthpb.HealthListRequest, _ []byte) (any, error) {
				return a.health.List(ctx, r)
			}),
		},
		Streams: []grpc.StreamDesc{
			stream(a, name, grpc.StreamDesc{StreamName: "Watch", ServerStreams: true}, a.watchHealth),
		},
		Metadata: "grpc/health/v1/health.proto",
	}
}

func (a *API) watchHealth(c *call) error {
	in, err := c.receive()
	if err != nil {
		return err
	}
	r := &healthpb.HealthCheckRequest{}
	if err := proto.Unmarshal(in, r); err != nil {
		return malformed(err)
	}
	return a.health.Watch(r, &grpc.GenericServerStream[healthpb.HealthCheckRequest, healthpb.HealthCheckResponse]{
		ServerStream: ending{c.stream, c.ctx},
	})
}

// ending is a stream whose context ends when the call must.
type ending struct {
	grpc.ServerStream
	ctx context.Context
}

func (e ending) Context() context.Context { return e.ctx }
