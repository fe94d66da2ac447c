package gateway

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
)

// route is one path below /v3/ and the RPC behind it.
type route struct {
	path           string
	method         string // /package.Service/Method
	in, out        protoreflect.MessageType
	requests, many bool // a stream of requests; of answers
}

// routes are the paths that the descriptions of etcd's services name.
func routes() ([]route, error) {
	files, err := concurrencyFiles()
	if err != nil {
		return nil, err
	}
	var all []route
	for _, file := range append(files, pb.File_rpc_proto) {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				all = append(all, of(methods.Get(j))...)
			}
		}
	}
	return all, nil
}

// of is the routes of one method: most have one.
func of(m protoreflect.MethodDescriptor) []route {
	rule, ok := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
	if !ok || rule == nil {
		return nil
	}
	one := route{
		method: fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name()),
		in:     messageType(m.Input()), out: messageType(m.Output()),
		requests: m.IsStreamingClient(), many: m.IsStreamingServer(),
	}
	var all []route
	for _, r := range append([]*annotations.HttpRule{rule}, rule.AdditionalBindings...) {
		one.path = r.GetPost()
		all = append(all, one)
	}
	return all
}

// messageType is the Go type of a message, or one made up for it.
func messageType(d protoreflect.MessageDescriptor) protoreflect.MessageType {
	if t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName()); err == nil {
		return t
	}
	return dynamicpb.NewMessageType(d)
}
