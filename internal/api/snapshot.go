package api

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"time"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"kvd/internal/store"
)

// blobBytes is how much of the image one message carries.
const blobBytes = 32 << 10

// snapshot sends the database: an image of the present moment in messages of
// blobBytes, and its SHA-256 as the last one.
func (a *API) snapshot(c *call) error {
	if _, err := c.receive(); err != nil {
		return err
	}
	began := time.Now()
	image, err := a.member.Copy(c.ctx)
	if err != nil {
		return err
	}
	defer image.Close()
	defer func() { a.metrics.snapshot.Observe(time.Since(began).Seconds()) }()
	s := &cutter{
		call:    c,
		left:    image.Size(),
		version: string(image.Value(store.Meta, []byte("storageVersion"))),
		sum:     sha256.New(),
	}
	if _, err := image.WriteTo(s); err != nil {
		return err
	}
	if err := s.flush(); err != nil {
		return err
	}
	if s.left != 0 {
		return fmt.Errorf("snapshot: the image is %d bytes shorter than it said", s.left)
	}
	if err := s.send(s.sum.Sum(nil)); err != nil {
		return err
	}
	a.log.Info("a snapshot was sent", "bytes", image.Size(), "took", time.Since(began))
	return nil
}

// cutter cuts what is written to it into messages.
type cutter struct {
	call    *call
	blob    []byte // gathered, shorter than blobBytes
	left    int64  // bytes of the image that no message carries yet
	version string
	sum     hash.Hash
}

func (c *cutter) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		if c.blob == nil {
			c.blob = make([]byte, 0, blobBytes) // gRPC keeps the last one
		}
		part := min(len(p), blobBytes-len(c.blob))
		c.blob = append(c.blob, p[:part]...)
		n += part
		p = p[part:]
		if len(c.blob) == blobBytes {
			if err := c.flush(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

func (c *cutter) flush() error {
	if len(c.blob) == 0 {
		return nil
	}
	blob := c.blob
	c.blob = nil
	c.sum.Write(blob)
	c.left -= int64(len(blob))
	return c.send(blob)
}

// send sends a SnapshotResponse around blob.
func (c *cutter) send(blob []byte) error {
	before := appendInt(nil, 2, uint64(c.left))
	before = protowire.AppendTag(before, 3, protowire.BytesType)
	before = protowire.AppendVarint(before, uint64(len(blob)))
	out := encoded{mem.SliceBuffer(before), mem.SliceBuffer(blob)}
	if c.version != "" {
		after := protowire.AppendString(protowire.AppendTag(nil, 4, protowire.BytesType), c.version)
		out = append(out, mem.SliceBuffer(after))
	}
	return c.call.send(out)
}
