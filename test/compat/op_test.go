package compat

import (
	"fmt"
	"regexp"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Methods that are not called as plain unary ones.
const (
	methodRangeStream = "/etcdserverpb.KV/RangeStream"
	methodKeepAlive   = "/etcdserverpb.Lease/LeaseKeepAlive"
	methodWatch       = "/etcdserverpb.Watch/Watch"
	methodRestart     = "restart" // no RPC: both servers are ended and started again
)

// An op is one step of a sequence: a request to both servers.
type op struct {
	method string
	req    proto.Message
	md     metadata.MD
	stream int    // of a Watch request: which stream
	self   bool   // of a MoveLeader: the target is the member asked
	raw    []byte // the body, instead of req, if it is to be malformed
	kill   bool   // of a restart: kill -9 rather than SIGTERM
}

func (o op) String() string {
	var b strings.Builder
	b.WriteString(o.method)
	if o.method == methodWatch {
		fmt.Fprintf(&b, " on stream %d", o.stream)
	}
	if o.kill {
		b.WriteString(" by kill")
	}
	if o.raw != nil {
		fmt.Fprintf(&b, " raw %q", clip(string(o.raw), 200))
	}
	if o.req != nil {
		b.WriteString(" {" + text(o.req) + "}")
	}
	if o.md != nil {
		fmt.Fprintf(&b, " with %v", o.md)
	}
	return b.String()
}

// text writes a message on one line.
func text(m proto.Message) string {
	s := oneLine(prototext.MarshalOptions{}.Format(m))
	s = longValue.ReplaceAllString(s, "$1…")
	return clip(s, 4000)
}

// longValue is one that only its length makes interesting.
var longValue = regexp.MustCompile(`((?:long ){3}|x{20})(?:long |x{5})+`)

func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return fmt.Sprintf("%s… (%d bytes)", s[:limit], len(s))
}

// response makes an empty answer for a unary method.
func response(method string) proto.Message {
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		panic(err)
	}
	out := d.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(name)).Output()
	typ, err := protoregistry.GlobalTypes.FindMessageByName(out.FullName())
	if err != nil {
		panic(err)
	}
	return typ.New().Interface()
}

// Short ways to write ops.

func kv(method string, req proto.Message) op {
	return op{method: "/etcdserverpb.KV/" + method, req: req}
}

func lease(method string, req proto.Message) op {
	return op{method: "/etcdserverpb.Lease/" + method, req: req}
}

func maintenance(method string, req proto.Message) op {
	return op{method: "/etcdserverpb.Maintenance/" + method, req: req}
}

func cluster(method string, req proto.Message) op {
	return op{method: "/etcdserverpb.Cluster/" + method, req: req}
}

func watchCreate(stream int, req *pb.WatchCreateRequest) op {
	return op{method: methodWatch, stream: stream, req: &pb.WatchRequest{
		RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: req},
	}}
}

func watchCancel(stream int, id int64) op {
	return op{method: methodWatch, stream: stream, req: &pb.WatchRequest{
		RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}},
	}}
}

func watchProgress(stream int) op {
	return op{method: methodWatch, stream: stream, req: &pb.WatchRequest{
		RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}},
	}}
}
