package api

import (
	"errors"
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"

	"kvd/internal/lease"
	"kvd/internal/member"
	"kvd/internal/mvcc"
	"kvd/internal/peer"
	"kvd/internal/replica"
	"kvd/internal/state"
)

func TestEveryRPCIsServedByARule(t *testing.T) {
	_, a := serving(t, newSolo(t), Options{})
	served := map[string]bool{}
	for service, info := range a.server.GetServiceInfo() {
		for _, m := range info.Methods {
			served["/"+service+"/"+m.Name] = true
		}
	}
	described, etcd := map[string]bool{}, 0
	for _, file := range []protoreflect.FileDescriptor{pb.File_rpc_proto, healthpb.File_grpc_health_v1_health_proto} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				name := fmt.Sprintf("/%s/%s", service.FullName(), service.Methods().Get(j).Name())
				described[name] = true
				if file == pb.File_rpc_proto {
					etcd++
				}
				if rules[name].need == refused {
					t.Errorf("%s has no rule", name)
				}
				if !served[name] {
					t.Errorf("%s is not served", name)
				}
			}
		}
	}
	if etcd != 42 {
		t.Errorf("etcd's API describes %d methods, the rules were written for 42: look at the new ones", etcd)
	}
	for _, name := range []string{"Election/Campaign", "Election/Proclaim", "Election/Leader", "Election/Observe", "Election/Resign"} {
		described["/v3electionpb."+name] = true
	}
	for _, name := range []string{"Lock/Lock", "Lock/Unlock"} {
		described["/v3lockpb."+name] = true
	}
	for name := range rules {
		if !described[name] {
			t.Errorf("%s has a rule and does not exist", name)
		}
	}
	for name := range served {
		if !described[name] {
			t.Errorf("%s is served and not described", name)
		}
	}
}

func TestWhatHasNoRuleIsRefused(t *testing.T) {
	if err := (rule{}).served(nil, nil); status.Code(err) != codes.PermissionDenied {
		t.Errorf("got %v", err)
	}
}

func TestErrorsHaveEtcdsCodesAndTexts(t *testing.T) {
	for _, c := range []struct {
		err  error
		code codes.Code
		text string
	}{
		{errEmptyKey, codes.InvalidArgument, "etcdserver: key is not provided"},
		{errNoOperation, codes.InvalidArgument, "etcdserver: key not found"},
		{errValueGiven, codes.InvalidArgument, "etcdserver: value is provided"},
		{errLeaseGiven, codes.InvalidArgument, "etcdserver: lease is provided"},
		{errTooManyOps, codes.InvalidArgument, "etcdserver: too many operations in txn request"},
		{errDuplicateKey, codes.InvalidArgument, "etcdserver: duplicate key given in txn request"},
		{errSortOption, codes.InvalidArgument, "etcdserver: invalid sort option"},
		{errClientVersion, codes.InvalidArgument, "etcdserver: invalid client api version"},
		{errPermissionDenied, codes.PermissionDenied, "etcdserver: permission denied"},
		{errNoSpace, codes.ResourceExhausted, "etcdserver: mvcc: database space exceeded"},
		{errNoLeader, codes.Unavailable, "etcdserver: no leader"},
		{errNotLeader, codes.FailedPrecondition, "etcdserver: not leader"},
		{errStopped, codes.Unavailable, "etcdserver: server stopped"},
		{errWatchCanceled, codes.Canceled, "etcdserver: watch canceled"},
		{errBadTransferee, codes.FailedPrecondition, "etcdserver: bad leader transferee"},
		{errBadURLs, codes.InvalidArgument, "etcdserver: given member URLs are invalid"},
		{errLearner, codes.FailedPrecondition, "etcdserver: rpc not supported for learner"},
		{errCorrupt, codes.DataLoss, "etcdserver: corrupt cluster"},
		{errVersionFormat, codes.InvalidArgument, "etcdserver: wrong downgrade target version format"},
		{errVersionTarget, codes.InvalidArgument, "etcdserver: invalid downgrade target version"},
		{errVersionUnknown, codes.FailedPrecondition, "etcdserver: cluster version not found during downgrade"},
		{errDowngradeRunning, codes.FailedPrecondition, "etcdserver: cluster has a downgrade job in progress"},
		{errUnknownMethod, codes.Unknown, "etcdserver: unknown method"},
		{errStreamSort, codes.Unimplemented, "RangeStream does not support custom sort orders"},
		{errStreamFilter, codes.Unimplemented, "RangeStream does not support revision filters"},

		{mvcc.ErrCompacted, codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted"},
		{mvcc.ErrFuture, codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision"},
		{lease.ErrNotFound, codes.NotFound, "etcdserver: requested lease not found"},
		{lease.ErrExists, codes.FailedPrecondition, "etcdserver: lease already exists"},
		{lease.ErrTooLarge, codes.OutOfRange, "etcdserver: too large lease TTL"},
		{state.ErrKeyNotFound, codes.InvalidArgument, "etcdserver: key not found"},
		{state.ErrNoSpace, codes.ResourceExhausted, "etcdserver: mvcc: database space exceeded"},
		{state.ErrCorrupt, codes.DataLoss, "etcdserver: corrupt cluster"},
		{replica.ErrStopped, codes.Unavailable, "etcdserver: server stopped"},
		{replica.ErrTooManyRequests, codes.Unknown, "etcdserver: too many requests"},
		{replica.ErrTooLarge, codes.InvalidArgument, "etcdserver: request is too large"},
		{replica.ErrTimeout, codes.Unavailable, "etcdserver: request timed out"},
		{replica.ErrTimeoutLeaderFailed, codes.Unavailable, "etcdserver: request timed out, possibly due to previous leader failure"},
		{replica.ErrTimeoutConnection, codes.Unavailable, "etcdserver: request timed out, possibly due to connection lost"},
		{replica.ErrTimeoutApply, codes.Unavailable, "etcdserver: request timed out, waiting for the applied index took too long"},
		{replica.ErrTimeoutTransfer, codes.Unknown, "etcdserver: request timed out, leader transfer took too long"},
		{replica.ErrLeaderChanged, codes.Unavailable, "etcdserver: leader changed"},
		{replica.ErrNotLeader, codes.FailedPrecondition, "etcdserver: not leader"},
		{member.ErrRemoved, codes.NotFound, "etcdserver: member not found"},
		{member.ErrNotFound, codes.NotFound, "etcdserver: member not found"},
		{member.ErrExists, codes.FailedPrecondition, "etcdserver: member ID already exist"},
		{member.ErrURLExists, codes.FailedPrecondition, "etcdserver: Peer URLs already exists"},
		{member.ErrNotLearner, codes.FailedPrecondition, "etcdserver: can only promote a learner member"},
		{member.ErrTooManyLearners, codes.FailedPrecondition, "etcdserver: too many learner members in cluster"},
		{member.ErrNotEnoughStarted, codes.Unknown, "etcdserver: re-configuration failed due to not enough started members"},
		{member.ErrUnhealthy, codes.Unavailable, "etcdserver: unhealthy cluster"},
		{peer.ErrNotReady, codes.FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader"},
		{errors.New("anything else"), codes.Unknown, "anything else"},
	} {
		asIs := []error{c.err}
		if _, ready := c.err.(interface{ GRPCStatus() *status.Status }); !ready && c.text != c.err.Error() {
			asIs = append(asIs, fmt.Errorf("some operation: %w", c.err))
		}
		for _, err := range asIs {
			got := status.Convert(wire(err))
			if got.Code() != c.code || got.Message() != c.text {
				t.Errorf("%v becomes %v %q, want %v %q", err, got.Code(), got.Message(), c.code, c.text)
			}
		}
	}
}
