package peer

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/store"
)

// sendSnapshot begins to post a snapshot. It does not, and leaves image alone,
// when another one is on its way to the member, or Run has ended.
func (p *peer) sendSnapshot(m *raftpb.Message, image *store.Copy) bool {
	if !p.snapshot.CompareAndSwap(false, true) {
		p.log.Warn("a snapshot is on its way already")
		return false
	}
	started := p.t.work.start(func() {
		defer p.snapshot.Store(false)
		p.postSnapshot(m, image)
	})
	if !started {
		p.snapshot.Store(false)
	}
	return started
}

func (p *peer) postSnapshot(m *raftpb.Message, image *store.Copy) {
	began, to := time.Now(), p.id.String()
	log := p.log.With("snapshot-index", m.GetSnapshot().GetMetadata().GetIndex(), "bytes", image.Size())
	log.Info("sending database snapshot")
	of := p.t.metrics.sending
	of.inflight.WithLabelValues(to).Inc()
	defer of.inflight.WithLabelValues(to).Dec()
	size := image.Size()
	err := p.postImage(m, image)
	image.Close()
	if err != nil {
		log.Warn("database snapshot not sent", "error", err)
		p.status.down("post a snapshot", err)
		of.failed.WithLabelValues(to).Inc()
		p.lost(1)
		p.t.raft.SnapshotSent(p.id, false)
		return
	}
	p.status.up()
	took := time.Since(began)
	log.Info("sent database snapshot", "took", took)
	p.count.sentBytes.Add(float64(size))
	of.done.WithLabelValues(to).Inc()
	of.seconds.WithLabelValues(to).Observe(took.Seconds())
	p.t.raft.SnapshotSent(p.id, true)
}

// imageTimeout is how long a receiver may take nothing of an image. It takes as much
// as its disk does, which may stand still for a while.
const imageTimeout = 30 * time.Second

// imagePiece is how much of an image is read, and sent, at once. The 32 KiB of
// io.Copy cost more in system calls than in copying.
const imagePiece = 256 << 10

// wide is a reader that is copied in pieces of an image.
type wide struct{ io.Reader }

// WriteTo implements io.WriterTo.
func (r wide) WriteTo(w io.Writer) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r.Reader}, make([]byte, imagePiece))
}

// settleTimeout is how long a receiver may take to make safe what it has got. The
// entries behind the image stay in memory as long.
const settleTimeout = 10 * time.Minute

// postImage posts message and image, and waits until the receiver has made them
// safe.
func (p *peer) postImage(m *raftpb.Message, image *store.Copy) error {
	head, err := frames{}.message(nil, m)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	from, to := io.Pipe()
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		out := bufio.NewWriterSize(to, imagePiece)
		n, err := image.WriteTo(out)
		if err == nil {
			err = out.Flush()
		}
		if err == nil && n != image.Size() {
			err = fmt.Errorf("the image has %d bytes instead of %d", n, image.Size())
		}
		to.CloseWithError(err)
		settled := time.AfterFunc(settleTimeout, cancel)
		context.AfterFunc(ctx, func() { settled.Stop() })
	}()
	err = p.submit(ctx, p.t.images, "/raft/snapshot", "application/octet-stream", wide{io.MultiReader(bytes.NewReader(head), from)})
	from.CloseWithError(context.Canceled) // an answer may have come before all was read
	<-copied
	return err
}
