package api

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kvd/internal/auth"
	"kvd/internal/credential"
	"kvd/internal/lease"
	"kvd/internal/member"
	"kvd/internal/mvcc"
	"kvd/internal/peer"
	"kvd/internal/replica"
	"kvd/internal/state"
)

// What requests are refused with before they reach the member. The codes and
// texts are etcd's: clients match both.
var (
	errEmptyKey          = rpctypes.ErrGRPCEmptyKey
	errNoOperation       = rpctypes.ErrGRPCKeyNotFound // etcd's answer to an operation that is none
	errValueGiven        = rpctypes.ErrGRPCValueProvided
	errLeaseGiven        = rpctypes.ErrGRPCLeaseProvided
	errTooManyOps        = rpctypes.ErrGRPCTooManyOps
	errDuplicateKey      = rpctypes.ErrGRPCDuplicateKey
	errSortOption        = rpctypes.ErrGRPCInvalidSortOption
	errClientVersion     = rpctypes.ErrGRPCInvalidClientAPIVersion
	errPermissionDenied  = rpctypes.ErrGRPCPermissionDenied
	errTooMany           = rpctypes.ErrGRPCRequestTooManyRequests
	errNoSpace           = rpctypes.ErrGRPCNoSpace
	errNoLeader          = rpctypes.ErrGRPCNoLeader
	errNotLeader         = rpctypes.ErrGRPCNotLeader
	errStopped           = rpctypes.ErrGRPCStopped
	errWatchCanceled     = rpctypes.ErrGRPCWatchCanceled
	errBadTransferee     = rpctypes.ErrGRPCBadLeaderTransferee
	errBadURLs           = rpctypes.ErrGRPCMemberBadURLs
	errLearner           = rpctypes.ErrGRPCNotSupportedForLearner
	errCorrupt           = rpctypes.ErrGRPCCorrupt
	errVersionFormat     = rpctypes.ErrGRPCWrongDowngradeVersionFormat
	errVersionTarget     = rpctypes.ErrGRPCInvalidDowngradeTargetVersion
	errVersionUnknown    = rpctypes.ErrGRPCClusterVersionUnavailable
	errDowngradeRunning  = rpctypes.ErrGRPCDowngradeInProcess
	errUnknownMethod     = status.Error(codes.Unknown, "etcdserver: unknown method")
	errInvalidToken      = rpctypes.ErrGRPCInvalidAuthToken
	errStreamSort        = status.Error(codes.Unimplemented, "RangeStream does not support custom sort orders")
	errStreamFilter      = status.Error(codes.Unimplemented, "RangeStream does not support revision filters")
	errNoDowngradeWanted = errors.New("there is no downgrade to cancel")
)

// catalogue maps the sentinels of the packages below to codes and texts. What
// is not in it is Unknown, with its own text. The three entries that are Unknown
// here though etcd's catalogue gives them a code are so in etcd as well.
var catalogue = []struct {
	is   error
	wire error
}{
	{mvcc.ErrCompacted, rpctypes.ErrGRPCCompacted},
	{mvcc.ErrFuture, rpctypes.ErrGRPCFutureRev},
	{lease.ErrNotFound, rpctypes.ErrGRPCLeaseNotFound},
	{lease.ErrExists, rpctypes.ErrGRPCLeaseExist},
	{lease.ErrTooLarge, rpctypes.ErrGRPCLeaseTTLTooLarge},
	{state.ErrKeyNotFound, rpctypes.ErrGRPCKeyNotFound},
	{state.ErrNoSpace, rpctypes.ErrGRPCNoSpace},
	{state.ErrCorrupt, rpctypes.ErrGRPCCorrupt},
	{replica.ErrStopped, rpctypes.ErrGRPCStopped},
	{replica.ErrTooManyRequests, status.Error(codes.Unknown, "etcdserver: too many requests")},
	{replica.ErrTooLarge, rpctypes.ErrGRPCRequestTooLarge},
	{replica.ErrTimeout, rpctypes.ErrGRPCTimeout},
	{replica.ErrTimeoutLeaderFailed, rpctypes.ErrGRPCTimeoutDueToLeaderFail},
	{replica.ErrTimeoutConnection, rpctypes.ErrGRPCTimeoutDueToConnectionLost},
	{replica.ErrTimeoutApply, rpctypes.ErrGRPCTimeoutWaitAppliedIndex},
	{replica.ErrTimeoutTransfer, status.Error(codes.Unknown, "etcdserver: request timed out, leader transfer took too long")},
	{replica.ErrLeaderChanged, rpctypes.ErrGRPCLeaderChanged},
	{replica.ErrNotLeader, rpctypes.ErrGRPCNotLeader},
	{member.ErrRemoved, rpctypes.ErrGRPCMemberNotFound},
	{member.ErrNotFound, rpctypes.ErrGRPCMemberNotFound},
	{member.ErrExists, rpctypes.ErrGRPCMemberExist},
	{member.ErrURLExists, rpctypes.ErrGRPCPeerURLExist},
	{member.ErrNotLearner, rpctypes.ErrGRPCMemberNotLearner},
	{member.ErrTooManyLearners, rpctypes.ErrGRPCTooManyLearners},
	{member.ErrNotEnoughStarted, status.Error(codes.Unknown, "etcdserver: re-configuration failed due to not enough started members")},
	{member.ErrUnhealthy, rpctypes.ErrGRPCUnhealthy},
	{peer.ErrNotReady, rpctypes.ErrGRPCLearnerNotReady},
	{auth.ErrNotEnabled, rpctypes.ErrGRPCAuthNotEnabled},
	{auth.ErrRootUserMissing, rpctypes.ErrGRPCRootUserNotExist},
	{auth.ErrRootRoleMissing, rpctypes.ErrGRPCRootRoleNotExist},
	{auth.ErrUserExists, rpctypes.ErrGRPCUserAlreadyExist},
	{auth.ErrUserEmpty, rpctypes.ErrGRPCUserEmpty},
	{auth.ErrUserNotFound, rpctypes.ErrGRPCUserNotFound},
	{auth.ErrRoleExists, rpctypes.ErrGRPCRoleAlreadyExist},
	{auth.ErrRoleNotFound, rpctypes.ErrGRPCRoleNotFound},
	{auth.ErrRoleEmpty, rpctypes.ErrGRPCRoleEmpty},
	{auth.ErrPermissionNotGiven, rpctypes.ErrGRPCPermissionNotGiven},
	{auth.ErrRoleNotGranted, rpctypes.ErrGRPCRoleNotGranted},
	{auth.ErrPermissionNotGranted, rpctypes.ErrGRPCPermissionNotGranted},
	{auth.ErrManagement, rpctypes.ErrGRPCInvalidAuthMgmt},
	{auth.ErrDenied, rpctypes.ErrGRPCPermissionDenied},
	{auth.ErrOldRevision, rpctypes.ErrGRPCAuthOldRevision},
	{auth.ErrFailed, rpctypes.ErrGRPCAuthFailed},
	{auth.ErrNoPassword, status.Error(codes.Unknown, "auth: authentication failed, password was given for no password user")},
	{auth.ErrNameTooLong, status.Error(codes.InvalidArgument, "etcdserver: the name of a user or role is longer than 32768 bytes")},
	{credential.ErrBusy, status.Error(codes.ResourceExhausted, "etcdserver: "+credential.ErrBusy.Error())},
}

// wire turns an error into what is sent. gRPC itself gives the ends of contexts
// their codes.
func wire(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return bare(err)
	}
	if _, ok := err.(interface{ GRPCStatus() *status.Status }); ok { // only what is already on its way
		return err
	}
	for _, entry := range catalogue {
		if errors.Is(err, entry.is) {
			return entry.wire
		}
	}
	return status.Error(codes.Unknown, err.Error())
}

// bare takes the wrapping off the end of a context: its text is the client's
// to see, and etcd's has none.
func bare(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return context.DeadlineExceeded
	}
	return context.Canceled
}
