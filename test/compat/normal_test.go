package compat

import (
	"bytes"
	"cmp"
	"net/url"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// What two correct servers may answer differently, and nothing else, is made
// equal here: who they are, where they listen, how big their files are, the
// order of what has no order, and the passing of time.

// normal returns an answer with the server's identity taken out.
func (s *side) normal(a answer) answer {
	if a.msg == nil {
		a.text = oneLine(a.text)
		return a
	}
	a.msg = proto.Clone(a.msg)
	if m, ok := a.msg.(interface{ GetHeader() *pb.ResponseHeader }); ok && m.GetHeader() != nil {
		s.header(m.GetHeader())
	}
	switch m := a.msg.(type) {
	case *pb.StatusResponse:
		s.status(m)
	case *pb.MemberListResponse:
		for _, member := range m.Members {
			s.memberOf(member)
		}
	case *pb.AlarmResponse: // in map order, too
		slices.SortFunc(m.Alarms, func(a, b *pb.AlarmMember) int {
			return cmp.Or(cmp.Compare(a.Alarm, b.Alarm), cmp.Compare(a.MemberID, b.MemberID))
		})
	case *pb.LeaseTimeToLiveResponse:
		slices.SortFunc(m.Keys, bytes.Compare) // etcd lists them in map order
	case *pb.HashResponse:
		m.Hash = 0 // of the whole file, which differs by design
	}
	return a
}

// header replaces what names the server by ones; a wrong name stays visible.
func (s *side) header(h *pb.ResponseHeader) {
	if h.ClusterId == s.self.cluster {
		h.ClusterId = 1
	}
	if h.MemberId == s.self.member {
		h.MemberId = 1
	}
	if h.RaftTerm > 0 {
		h.RaftTerm = 1
	}
}

// status keeps of the numbers that depend on the implementation only whether
// they can be.
func (s *side) status(m *pb.StatusResponse) {
	if m.Leader == s.self.member {
		m.Leader = 1
	}
	if m.DbSize > 0 && m.DbSizeInUse > 0 && m.DbSizeInUse <= m.DbSize {
		m.DbSize, m.DbSizeInUse = 1, 1
	}
	if m.RaftAppliedIndex > 0 && m.RaftAppliedIndex <= m.RaftIndex {
		m.RaftIndex, m.RaftAppliedIndex = 1, 1
	}
	if m.RaftTerm > 0 {
		m.RaftTerm = 1
	}
	for i, text := range m.Errors {
		m.Errors[i] = oneLine(text) // protobuf's text form varies its spaces
	}
	slices.Sort(m.Errors)
}

func (s *side) memberOf(m *pb.Member) {
	if m.ID == s.self.member {
		m.ID = 1
	}
	for _, urls := range [][]string{m.ClientURLs, m.PeerURLs} {
		for i, text := range urls {
			if u, err := url.Parse(text); err == nil {
				urls[i] = u.Scheme + "://" + u.Hostname()
			}
		}
	}
}

// settle makes equal what a pair of answers to one request may differ in.
func (s *session) settle(o op, a, b proto.Message) {
	switch req := o.req.(type) {
	case *pb.RangeRequest:
		s.settleRange(req, a.(*pb.RangeResponse), b.(*pb.RangeResponse))
	case *pb.TxnRequest:
		s.settleTxn(req, a.(*pb.TxnResponse), b.(*pb.TxnResponse))
	case *pb.LeaseTimeToLiveRequest:
		a, b := a.(*pb.LeaseTimeToLiveResponse), b.(*pb.LeaseTimeToLiveResponse)
		if d := a.TTL - b.TTL; a.TTL >= 0 && b.TTL >= 0 && -1 <= d && d <= 1 {
			b.TTL = a.TTL // a second may have passed between the two
		}
	case *pb.LeaseLeasesRequest:
		s.settleLeases(a.(*pb.LeaseLeasesResponse))
		s.settleLeases(b.(*pb.LeaseLeasesResponse))
	}
}

// settleLeases orders leases of the same length by id once a restart has
// renewed them all at the same moment; before, their order is that of renewal.
func (s *session) settleLeases(m *pb.LeaseLeasesResponse) {
	if !s.restarted {
		return
	}
	for from := 0; from < len(m.Leases); {
		to := from + 1
		for to < len(m.Leases) && s.model.leases[m.Leases[from].ID] == s.model.leases[m.Leases[to].ID] {
			to++
		}
		slices.SortFunc(m.Leases[from:to], func(x, y *pb.LeaseStatus) int { return cmp.Compare(x.ID, y.ID) })
		from = to
	}
}

func (s *session) settleTxn(req *pb.TxnRequest, a, b *pb.TxnResponse) {
	if a.Succeeded != b.Succeeded || len(a.Responses) != len(b.Responses) {
		return
	}
	ops := req.Failure
	if a.Succeeded {
		ops = req.Success
	}
	for i, o := range ops {
		if i >= len(a.Responses) {
			return
		}
		switch o := o.Request.(type) {
		case *pb.RequestOp_RequestRange:
			x, y := a.Responses[i].GetResponseRange(), b.Responses[i].GetResponseRange()
			if x != nil && y != nil {
				s.settleRange(o.RequestRange, x, y)
			}
		case *pb.RequestOp_RequestTxn:
			x, y := a.Responses[i].GetResponseTxn(), b.Responses[i].GetResponseTxn()
			if x != nil && y != nil {
				s.settleTxn(o.RequestTxn, x, y)
			}
		}
	}
}

// settleRange puts keys that a sort by something else than the key leaves
// without an order into key order. Of a group of equals that a limit cut
// through, either server may have chosen others; only their number counts.
func (s *session) settleRange(req *pb.RangeRequest, a, b *pb.RangeResponse) {
	if req.SortTarget == pb.RangeRequest_KEY {
		return
	}
	s.orderTies(req, a.Kvs)
	s.orderTies(req, b.Kvs)
	if !a.More || !b.More || len(a.Kvs) != len(b.Kvs) || len(a.Kvs) == 0 {
		return
	}
	last := len(a.Kvs) - 1
	for i := last; i >= 0; i-- {
		if s.compareBy(req, a.Kvs[i], a.Kvs[last]) != 0 || s.compareBy(req, b.Kvs[i], a.Kvs[last]) != 0 {
			break
		}
		b.Kvs[i] = a.Kvs[i]
	}
}

func (s *session) orderTies(req *pb.RangeRequest, kvs []*mvccpb.KeyValue) {
	for from := 0; from < len(kvs); {
		to := from + 1
		for to < len(kvs) && s.compareBy(req, kvs[from], kvs[to]) == 0 {
			to++
		}
		slices.SortFunc(kvs[from:to], func(x, y *mvccpb.KeyValue) int { return bytes.Compare(x.Key, y.Key) })
		from = to
	}
}

// compareBy compares by the field that a request sorts by.
func (s *session) compareBy(req *pb.RangeRequest, x, y *mvccpb.KeyValue) int {
	switch req.SortTarget {
	case pb.RangeRequest_VERSION:
		return cmp.Compare(x.Version, y.Version)
	case pb.RangeRequest_CREATE:
		return cmp.Compare(x.CreateRevision, y.CreateRevision)
	case pb.RangeRequest_MOD:
		return cmp.Compare(x.ModRevision, y.ModRevision)
	case pb.RangeRequest_VALUE:
		if req.KeysOnly {
			return bytes.Compare(s.values[string(x.Key)], s.values[string(y.Key)])
		}
		return bytes.Compare(x.Value, y.Value)
	default:
		return bytes.Compare(x.Key, y.Key)
	}
}

// same compares two settled answers.
func same(a, b answer) bool {
	if (a.msg == nil) != (b.msg == nil) || a.code != b.code || a.text != b.text {
		return false
	}
	return a.msg == nil || proto.Equal(a.msg, b.msg)
}

func (a answer) String() string {
	if a.msg == nil {
		return strings.TrimSpace(a.code.String() + " " + clip(a.text, 400))
	}
	return "{" + text(a.msg) + "}"
}
