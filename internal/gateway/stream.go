package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// stream serves an RPC of many answers: one JSON object and a newline each. The
// requests of one that takes many are read from the body while answers go out.
func (t *translator) stream(to route) http.HandlerFunc {
	desc := &grpc.StreamDesc{ServerStreams: true, ClientStreams: to.requests}
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		ctx, err := t.context(r.WithContext(ctx), to)
		fail := func(err error) { runtime.HTTPError(ctx, t.mux, t.marshal, w, r, err) }
		if err != nil {
			ctx = r.Context()
			fail(err)
			return
		}
		var in proto.Message
		if !to.requests {
			if in, err = t.only(w, r, to); err != nil {
				fail(err)
				return
			}
		}
		call, err := t.services.NewStream(ctx, desc, to.method)
		if err != nil {
			fail(err)
			return
		}
		if to.requests {
			defer t.feed(w, r, to, call, cancel)()
		} else if err = errors.Join(call.SendMsg(in), call.CloseSend()); err != nil {
			fail(err)
			return
		}
		header, err := call.Header()
		if err != nil {
			fail(err)
			return
		}
		ctx = runtime.NewServerMetadataContext(ctx, runtime.ServerMetadata{HeaderMD: header})
		runtime.ForwardResponseStream(ctx, t.mux, t.marshal, w, r, func() (proto.Message, error) {
			out := to.out.New().Interface()
			if err := call.RecvMsg(out); err != nil {
				return nil, ended(ctx, err)
			}
			return out, nil
		})
	}
}

// feed begins to send what the body holds. What it returns ends that, and waits
// for it. A body that cannot be decoded ends the call, by cancel.
func (t *translator) feed(w http.ResponseWriter, r *http.Request, to route, call grpc.ClientStream, cancel context.CancelCauseFunc) (stop func()) {
	control := http.NewResponseController(w)
	control.EnableFullDuplex() //nolint:errcheck // HTTP/2 and sockets are so
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		if err := t.requests(r.Body, to, call); err != nil {
			cancel(err)
		}
	}()
	return func() {
		select {
		case <-fed:
			return
		default:
		}
		cancel(nil)
		if control.SetReadDeadline(time.Unix(1, 0)) != nil {
			r.Body.Close()
		}
		<-fed
	}
}

// requests sends one JSON object after the other, until the body or the call
// ends.
func (t *translator) requests(from io.Reader, to route, call grpc.ClientStream) error {
	body := &allowance{from: from, left: t.limit}
	decoder := runtime.DecoderWrapper{Decoder: json.NewDecoder(body), UnmarshalOptions: t.marshal.UnmarshalOptions}
	for {
		in := to.in.New().Interface()
		err := decoder.Decode(in)
		switch {
		case errors.Is(err, io.EOF):
			return call.CloseSend()
		case err != nil:
			return undecodable(err)
		}
		if err := call.SendMsg(in); err != nil {
			return nil // the call has ended, and says why where it is received from
		}
		body.left = t.limit
	}
}

// ended is what a call has ended with: the fault in its requests, if there was
// one.
func ended(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	return err
}
