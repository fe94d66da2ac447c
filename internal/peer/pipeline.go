package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

const (
	pipelinePosts    = 4  // to one member at once
	pipelineMessages = 64 // wait for a post; further ones are dropped
	postTimeout      = 10 * time.Second
	postPace         = 1 << 20 // bytes that add a second to it
	answerBytes      = 64 << 10
)

// pipeline posts messages one by one to a member that has opened no stream. Its
// goroutines are there only while it has something to post.
type pipeline struct {
	mu      sync.Mutex
	queue   []*raftpb.Message
	posting int // goroutines
}

// post has a message posted.
func (r *remote) post(m *raftpb.Message) {
	p := &r.posts
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) >= pipelineMessages {
		r.dropped(m, "pipeline")
		return
	}
	if p.posting < pipelinePosts && r.t.work.start(r.postAll) {
		p.posting++
	}
	if p.posting == 0 { // nothing runs
		r.lost(1)
		return
	}
	p.queue = append(p.queue, m)
}

// postAll posts until nothing waits.
func (r *remote) postAll() {
	for {
		p := &r.posts
		p.mu.Lock()
		if len(p.queue) == 0 {
			p.queue = nil
			p.posting--
			p.mu.Unlock()
			return
		}
		m := p.queue[0]
		p.queue = p.queue[1:]
		p.mu.Unlock()
		if n, err := r.postOne(m); err != nil {
			r.down("post a message", err)
			r.lost(1)
			if m.GetType() == raftpb.MsgSnap {
				r.t.raft.SnapshotSent(r.id, false)
			}
		} else {
			r.up()
			r.count.sentBytes.Add(float64(n))
			if m.GetType() == raftpb.MsgSnap {
				r.t.raft.SnapshotSent(r.id, true)
			}
		}
	}
}

func (r *remote) postOne(m *raftpb.Message) (int, error) {
	if r.ctx.Err() != nil {
		return 0, r.ctx.Err()
	}
	body, err := appendMessage(nil, m)
	if err != nil {
		return 0, err
	}
	limit := postTimeout + time.Duration(len(body)/postPace)*time.Second
	ctx, cancel := context.WithTimeout(r.ctx, limit)
	defer cancel()
	return len(body), r.submit(ctx, r.t.posts, "/raft", "application/protobuf", bytes.NewReader(body))
}

// submit posts a body and takes the answer for what it means.
func (r *remote) submit(ctx context.Context, over *roads, path, content string, body io.Reader) error {
	u := r.urls.pick()
	err := r.submitTo(ctx, over, u+path, content, body)
	if err == nil {
		return nil
	}
	r.urls.failed(u)
	if errors.Is(err, ErrRemoved) {
		r.t.expelled(r.id)
	}
	return err
}

func (r *remote) submitTo(ctx context.Context, over *roads, address, content string, body io.Reader) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, body)
	if err != nil {
		return err
	}
	r.t.introduce(request.Header)
	request.Header.Set("Content-Type", content)
	answer, err := over.RoundTrip(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	// Somebody who has answered, but not whole, must not be waited for.
	stop := time.AfterFunc(r.t.o.ReadTimeout, func() { answer.Body.Close() })
	defer stop.Stop()
	text, err := io.ReadAll(io.LimitReader(answer.Body, answerBytes))
	if err != nil {
		return err
	}
	return r.judge(answer, strings.TrimSuffix(string(text), "\n"))
}

// judge is what an answer to a post means.
func (r *remote) judge(answer *http.Response, text string) error {
	switch answer.StatusCode {
	case http.StatusNoContent:
		return nil
	case http.StatusForbidden:
		return ErrRemoved
	case http.StatusPreconditionFailed:
		return r.refused(answer, text)
	default:
		return fmt.Errorf("post: unexpected status %d (%s)", answer.StatusCode, text)
	}
}

// refused is the error of an answer that says that the members do not go
// together.
func (r *remote) refused(answer *http.Response, text string) error {
	switch text {
	case ErrIncompatible.Error():
		r.t.murmur.warn("another member refuses this one for its version", r.id.String(), "remote-peer-id", r.id.String(),
			"its-version", answer.Header.Get(headerVersion), "own-version", serverVersion)
		return ErrIncompatible
	case ErrMismatch.Error():
		r.t.murmur.warn("another member refuses this one: it is of another cluster", r.id.String(), "remote-peer-id", r.id.String(),
			"its-cluster-id", answer.Header.Get(headerCluster), "own-cluster-id", r.t.o.Cluster.String())
		return ErrMismatch
	default:
		return fmt.Errorf("refused: %q", text)
	}
}
