package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/stats"

	"kvd/internal/config"
)

const (
	samplesOf = 1_000_000
	// tracingGrace is how long the last spans may take to reach the collector.
	tracingGrace = 2 * time.Second
)

// tracing sends spans of calls to a collector. The zero value sends none, and
// costs nothing.
type tracing struct {
	handler stats.Handler // for the gRPC server
	tracer  trace.Tracer  // for what a call does
	stop    func(context.Context) error
}

// newTracing begins to send spans, if that is wanted. The collector need not be
// there: spans that it does not take are lost, and nothing waits for it.
func newTracing(ctx context.Context, c config.Tracing, version string) (tracing, error) {
	if !c.Enabled {
		return tracing{}, nil
	}
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithInsecure(), otlptracegrpc.WithEndpoint(c.Address))
	if err != nil {
		return tracing{}, fmt.Errorf("distributed-tracing-address %s: %w", c.Address, err)
	}
	about := []attribute.KeyValue{attribute.String("service.name", c.ServiceName)}
	if c.InstanceID != "" {
		about = append(about, attribute.String("service.instance.id", c.InstanceID))
	}
	sampler := sdktrace.NeverSample() // 0: only what a client traces already
	if c.SamplingRate > 0 {
		sampler = sdktrace.TraceIDRatioBased(float64(c.SamplingRate) / samplesOf)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithResource(resource.NewSchemaless(about...)),
		sdktrace.WithSampler(sdktrace.ParentBased(sampler)),
	)
	return tracing{
		handler: otelgrpc.NewServerHandler(
			otelgrpc.WithTracerProvider(provider),
			otelgrpc.WithPropagators(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})),
		),
		tracer: provider.Tracer("kvd", trace.WithInstrumentationVersion(version)),
		stop: func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, tracingGrace)
			defer cancel()
			return errors.Join(provider.Shutdown(ctx), exporter.Shutdown(ctx))
		},
	}, nil
}

// traceCalls begins tracing, which ends after the services.
func (m *running) traceCalls(ctx context.Context) (err error) {
	if m.tracing, err = newTracing(ctx, m.config.Tracing, m.in.Version); err != nil || m.tracing.stop == nil {
		return err
	}
	m.log.Info("sending traces of calls", "address", m.config.Tracing.Address, "of-a-million", m.config.Tracing.SamplingRate)
	m.crew.start("tracing", func(ctx context.Context) error {
		<-ctx.Done()
		if err := m.tracing.stop(context.WithoutCancel(ctx)); err != nil {
			m.log.Warn("the last traces have not reached the collector", "error", err)
		}
		return nil
	})
	return nil
}
