package proxy

import (
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// frame is a message that is passed on as it came.
type frame struct{ data mem.BufferSlice }

// free gives the bytes back. A frame that is freed is not used any more.
func (f *frame) free() {
	f.data.Free()
	f.data = nil
}

// last is a frame that is sent once and then nobody's any more: the transport frees
// it.
type last struct{ frame }

// codec moves frames without looking into them, and knows protobuf for the few
// messages that the proxy reads or makes itself.
type codec struct{}

// Name is empty: content is of gRPC's plain type, as etcd's clients send it.
func (codec) Name() string { return "" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *frame:
		m.data.Ref() // the transport frees what it has sent; a retry sends it again
		return m.data, nil
	case *last:
		return m.data, nil
	case mem.BufferSlice:
		return m, nil
	case proto.Message:
		data, err := proto.Marshal(m)
		return mem.BufferSlice{mem.SliceBuffer(data)}, err
	}
	return nil, fmt.Errorf("encode a message: %T is none", v)
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case *frame:
		data.Ref()
		m.data = data
		return nil
	case proto.Message:
		bytes := data.MaterializeToBuffer(mem.DefaultBufferPool())
		defer bytes.Free()
		return proto.Unmarshal(bytes.ReadOnlyData(), m)
	}
	return fmt.Errorf("decode a message: %T is none", v)
}
