package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"kvd/internal/lease"
	"kvd/internal/member"
	"kvd/internal/mvcc"
)

// questionBytes is the largest question that another member asks.
const questionBytes = 64 << 10

// Routes adds everything that the peer port answers.
func (t *Transport) Routes(mux *http.ServeMux) {
	mux.HandleFunc("/raft", t.message)
	mux.HandleFunc("/raft/stream/", t.stream)
	mux.HandleFunc("/raft/snapshot", t.image)
	mux.HandleFunc("/raft/probing", t.pulse)
	for path, question := range map[string]struct {
		answer   http.HandlerFunc
		answered bool
	}{
		"/members":           {t.members, t.desk.Members != nil},
		"/members/hashkv":    {t.hash, t.desk.HashKV != nil},
		"/members/promote/":  {t.promote, t.desk.Promote != nil},
		"/leases":            {t.renew, t.desk.Renew != nil},
		"/leases/internal":   {t.timeToLive, t.desk.TimeToLive != nil},
		"/version":           {t.versions, t.desk.Versions != nil},
		"/downgrade/enabled": {t.downgrade, t.desk.Downgrade != nil},
	} {
		if question.answered {
			mux.HandleFunc(path, question.answer)
		}
	}
}

func (t *Transport) sign(w http.ResponseWriter) {
	w.Header()[headerCluster] = []string{t.o.Cluster.String()}
}

func (t *Transport) members(w http.ResponseWriter, r *http.Request) {
	if !method(w, r, http.MethodGet) {
		return
	}
	t.sign(w)
	answerMembers(w, t.desk.Members())
}

func answerMembers(w http.ResponseWriter, members []member.Member) {
	if members == nil {
		members = []member.Member{} // null would be no list
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(members) //nolint:errcheck // the asker has gone
}

// tokenKey is where the context of a promotion has what the client has shown.
type tokenKey struct{}

// Token is what the client of a member that forwards a promotion has shown; empty
// if nothing.
func Token(ctx context.Context) string {
	token, _ := ctx.Value(tokenKey{}).(string)
	return token
}

func (t *Transport) promote(w http.ResponseWriter, r *http.Request) {
	if !method(w, r, http.MethodPost) {
		return
	}
	t.sign(w)
	text := strings.TrimPrefix(r.URL.Path, "/members/promote/")
	id, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		http.Error(w, fmt.Sprintf("member %s not found in cluster", text), http.StatusNotFound)
		return
	}
	ctx := r.Context()
	if token := r.Header.Get("Authorization"); token != "" {
		ctx = context.WithValue(ctx, tokenKey{}, token)
	}
	members, err := t.desk.Promote(ctx, member.ID(id))
	switch {
	case err == nil:
		answerMembers(w, members)
		return
	case errors.Is(err, member.ErrNotFound):
		http.Error(w, member.ErrNotFound.Error(), http.StatusNotFound)
	case errors.Is(err, member.ErrNotLearner):
		http.Error(w, member.ErrNotLearner.Error(), http.StatusPreconditionFailed)
	case errors.Is(err, ErrNotReady):
		http.Error(w, textNotReady, http.StatusPreconditionFailed)
	default:
		complain(w, http.StatusInternalServerError, "Internal Server Error")
	}
	t.log.Warn("a member was not promoted", "member-id", member.ID(id).String(), "error", err)
}

func (t *Transport) hash(w http.ResponseWriter, r *http.Request) {
	if !method(w, r, http.MethodGet) {
		return
	}
	if its := r.Header.Get(headerCluster); its != "" && its != t.o.Cluster.String() {
		http.Error(w, ErrMismatch.Error(), http.StatusPreconditionFailed)
		return
	}
	text, err := t.question(w, r)
	if err != nil {
		http.Error(w, "error reading body", http.StatusBadRequest)
		return
	}
	var question pb.HashKVRequest
	if err := json.Unmarshal(text, &question); err != nil {
		http.Error(w, "error unmarshalling request", http.StatusBadRequest)
		return
	}
	hash, err := t.desk.HashKV(r.Context(), question.Revision)
	switch {
	case err == nil:
	case errors.Is(err, mvcc.ErrCompacted):
		http.Error(w, textCompacted, http.StatusBadRequest)
		return
	case errors.Is(err, mvcc.ErrFuture):
		http.Error(w, textFuture, http.StatusBadRequest)
		return
	default:
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer, err := json.Marshal(&pb.HashKVResponse{
		Header: &pb.ResponseHeader{Revision: hash.Revision},
		Hash:   hash.Hash, CompactRevision: hash.Compacted, HashRevision: hash.At,
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	t.sign(w)
	w.Header().Set("Content-Type", "application/json")
	w.Write(answer) //nolint:errcheck // the asker has gone
}

// How etcd words errors that members tell each other.
const (
	textCompacted = "mvcc: required revision has been compacted"
	textFuture    = "mvcc: required revision is a future revision"
	textNotReady  = "etcdserver: can only promote a learner member which is in sync with leader"
	textNoLease   = "lease not found"
)

// question reads a small body.
func (t *Transport) question(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, done := t.body(w, r)
	defer done()
	return io.ReadAll(http.MaxBytesReader(w, io.NopCloser(body), questionBytes))
}

// leaseQuestion reads a question about a lease, or answers that it cannot.
func (t *Transport) leaseQuestion(w http.ResponseWriter, r *http.Request, parse func([]byte) error) bool {
	if r.Method != http.MethodPost {
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed) // without Allow, as etcd
		return false
	}
	text, err := t.question(w, r)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		http.Error(w, "request body too large", http.StatusRequestEntityTooLarge)
	case err != nil:
		http.Error(w, "error reading body", http.StatusBadRequest)
	case parse(text) != nil:
		http.Error(w, "error unmarshalling request", http.StatusBadRequest)
	default:
		return true
	}
	return false
}

func (t *Transport) renew(w http.ResponseWriter, r *http.Request) {
	var question pb.LeaseKeepAliveRequest
	if !t.leaseQuestion(w, r, func(b []byte) error { return proto.Unmarshal(b, &question) }) {
		return
	}
	ttl, err := t.desk.Renew(r.Context(), lease.ID(question.ID))
	if err != nil {
		refuseLease(w, err, http.StatusBadRequest)
		return
	}
	answerLease(w, &pb.LeaseKeepAliveResponse{ID: question.ID, TTL: ttl}, func(b []byte) []byte { return b })
}

func (t *Transport) timeToLive(w http.ResponseWriter, r *http.Request) {
	var question pb.LeaseTimeToLiveRequest
	parse := func(b []byte) error {
		inner, err := unwrap(b)
		if err != nil {
			return err
		}
		return proto.Unmarshal(inner, &question)
	}
	if !t.leaseQuestion(w, r, parse) {
		return
	}
	answer, err := t.desk.TimeToLive(r.Context(), lease.ID(question.ID), question.Keys)
	if err != nil {
		refuseLease(w, err, http.StatusInternalServerError)
		return
	}
	if answer.Header == nil {
		answer.Header = &pb.ResponseHeader{} // an etcd fills it in, and ends if there is none
	}
	answerLease(w, answer, wrap)
}

func refuseLease(w http.ResponseWriter, err error, other int) {
	switch {
	case errors.Is(err, lease.ErrNotFound):
		http.Error(w, textNoLease, http.StatusNotFound)
	case errors.Is(err, ErrBehind):
		http.Error(w, ErrBehind.Error(), http.StatusRequestTimeout)
	case errors.Is(err, ErrNotLeader):
		http.Error(w, ErrNotLeader.Error(), other)
	default:
		http.Error(w, err.Error(), other)
	}
}

func answerLease(w http.ResponseWriter, answer proto.Message, wrap func([]byte) []byte) {
	b, err := proto.Marshal(answer)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/protobuf")
	w.Write(wrap(b)) //nolint:errcheck // the asker has gone
}

// wrap makes b the field 1 of a message: that is all that the members' own
// messages about leases add to those of the API.
func wrap(b []byte) []byte {
	return protowire.AppendBytes([]byte{1<<3 | byte(protowire.BytesType)}, b)
}

// unwrap returns the field 1 of a message; of several, as one.
func unwrap(b []byte) (inner []byte, err error) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, errMalformed
		}
		size := protowire.ConsumeFieldValue(num, typ, b[n:])
		if size < 0 {
			return nil, errMalformed
		}
		if num == 1 && typ == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(b[n:])
			inner = append(inner, v...)
		}
		b = b[n+size:]
	}
	return inner, nil
}

func (t *Transport) versions(w http.ResponseWriter, r *http.Request) {
	if !method(w, r, http.MethodGet) {
		return
	}
	v := t.desk.Versions()
	if v.Cluster == "" {
		v.Cluster = "not_decided"
	}
	if v.Storage == "" {
		v.Storage = "unknown"
	}
	answer, err := json.Marshal(versionsJSON(v))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(answer) //nolint:errcheck // the asker has gone
}

// versionsJSON are the versions under etcd's names.
type versionsJSON struct {
	Server  string `json:"etcdserver"`
	Cluster string `json:"etcdcluster"`
	Storage string `json:"storage"`
}

func (t *Transport) downgrade(w http.ResponseWriter, r *http.Request) {
	if !method(w, r, http.MethodGet) {
		return
	}
	t.sign(w)
	enabled, err := t.desk.Downgrade(r.Context())
	if err != nil {
		http.Error(w, fmt.Sprintf("failed linearized read: %v", err), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	io.WriteString(w, strconv.FormatBool(enabled)) //nolint:errcheck // the asker has gone
}
