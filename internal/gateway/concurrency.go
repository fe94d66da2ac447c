package gateway

import (
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// The services Election and Lock are described in etcd's server module, which
// kvd does not import. They are described here again, for their JSON.

const (
	headerType = ".etcdserverpb.ResponseHeader"
	kvType     = ".mvccpb.KeyValue"
	leaderType = ".v3electionpb.LeaderKey"
)

func concurrencyFiles() ([]protoreflect.FileDescriptor, error) {
	var files []protoreflect.FileDescriptor
	for _, f := range []*descriptorpb.FileDescriptorProto{electionFile(), lockFile()} {
		f.Syntax = proto.String("proto3")
		f.Dependency = []string{"rpc.proto", "kv.proto"} // where etcd/api has the header and the pair
		made, err := protodesc.NewFile(f, protoregistry.GlobalFiles)
		if err != nil {
			return nil, err
		}
		files = append(files, made)
	}
	return files, nil
}

func electionFile() *descriptorpb.FileDescriptorProto {
	return &descriptorpb.FileDescriptorProto{
		Name: proto.String("v3election.proto"), Package: proto.String("v3electionpb"),
		MessageType: []*descriptorpb.DescriptorProto{
			message("CampaignRequest", octets("name"), number("lease"), octets("value")),
			message("CampaignResponse", part("header", headerType), part("leader", leaderType)),
			message("LeaderKey", octets("name"), octets("key"), number("rev"), number("lease")),
			message("LeaderRequest", octets("name")),
			message("LeaderResponse", part("header", headerType), part("kv", kvType)),
			message("ResignRequest", part("leader", leaderType)),
			message("ResignResponse", part("header", headerType)),
			message("ProclaimRequest", part("leader", leaderType), octets("value")),
			message("ProclaimResponse", part("header", headerType)),
		},
		Service: []*descriptorpb.ServiceDescriptorProto{{
			Name: proto.String("Election"),
			Method: []*descriptorpb.MethodDescriptorProto{
				rpc("Campaign", ".v3electionpb.CampaignRequest", ".v3electionpb.CampaignResponse", "/v3/election/campaign"),
				rpc("Proclaim", ".v3electionpb.ProclaimRequest", ".v3electionpb.ProclaimResponse", "/v3/election/proclaim"),
				rpc("Leader", ".v3electionpb.LeaderRequest", ".v3electionpb.LeaderResponse", "/v3/election/leader"),
				streaming(rpc("Observe", ".v3electionpb.LeaderRequest", ".v3electionpb.LeaderResponse", "/v3/election/observe")),
				rpc("Resign", ".v3electionpb.ResignRequest", ".v3electionpb.ResignResponse", "/v3/election/resign"),
			},
		}},
	}
}

func lockFile() *descriptorpb.FileDescriptorProto {
	return &descriptorpb.FileDescriptorProto{
		Name: proto.String("v3lock.proto"), Package: proto.String("v3lockpb"),
		MessageType: []*descriptorpb.DescriptorProto{
			message("LockRequest", octets("name"), number("lease")),
			message("LockResponse", part("header", headerType), octets("key")),
			message("UnlockRequest", octets("key")),
			message("UnlockResponse", part("header", headerType)),
		},
		Service: []*descriptorpb.ServiceDescriptorProto{{
			Name: proto.String("Lock"),
			Method: []*descriptorpb.MethodDescriptorProto{
				rpc("Lock", ".v3lockpb.LockRequest", ".v3lockpb.LockResponse", "/v3/lock/lock"),
				rpc("Unlock", ".v3lockpb.UnlockRequest", ".v3lockpb.UnlockResponse", "/v3/lock/unlock"),
			},
		}},
	}
}

// message describes a message whose fields are numbered as they stand.
func message(name string, fields ...*descriptorpb.FieldDescriptorProto) *descriptorpb.DescriptorProto {
	for i, f := range fields {
		f.Number = proto.Int32(int32(i + 1))
		f.Label = descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()
	}
	return &descriptorpb.DescriptorProto{Name: proto.String(name), Field: fields}
}

func octets(name string) *descriptorpb.FieldDescriptorProto {
	return &descriptorpb.FieldDescriptorProto{Name: proto.String(name), Type: descriptorpb.FieldDescriptorProto_TYPE_BYTES.Enum()}
}

func number(name string) *descriptorpb.FieldDescriptorProto {
	return &descriptorpb.FieldDescriptorProto{Name: proto.String(name), Type: descriptorpb.FieldDescriptorProto_TYPE_INT64.Enum()}
}

func part(name, of string) *descriptorpb.FieldDescriptorProto {
	return &descriptorpb.FieldDescriptorProto{
		Name: proto.String(name), Type: descriptorpb.FieldDescriptorProto_TYPE_MESSAGE.Enum(), TypeName: proto.String(of),
	}
}

func rpc(name, in, out, path string) *descriptorpb.MethodDescriptorProto {
	options := &descriptorpb.MethodOptions{}
	proto.SetExtension(options, annotations.E_Http, &annotations.HttpRule{
		Pattern: &annotations.HttpRule_Post{Post: path}, Body: "*",
	})
	return &descriptorpb.MethodDescriptorProto{
		Name: proto.String(name), InputType: proto.String(in), OutputType: proto.String(out), Options: options,
	}
}

func streaming(m *descriptorpb.MethodDescriptorProto) *descriptorpb.MethodDescriptorProto {
	m.ServerStreaming = proto.Bool(true)
	return m
}
