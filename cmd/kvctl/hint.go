package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// advice is what to do next about errors the cluster names.
var advice = []struct {
	err  error
	hint string
}{
	{rpctypes.ErrNoSpace, "the database is full: free space with \"kvctl compaction\" and \"kvctl defrag\" (or raise kvd's quota-backend-bytes), then \"kvctl alarm disarm\""},
	{rpctypes.ErrCorrupt, "members disagree about the data: compare them with \"kvctl endpoint hashkv --cluster\" before anything else"},
	{rpctypes.ErrCompacted, "that revision is gone; the answer's revision and later ones can be read: kvctl get <key> -w fields shows the present one"},
	{rpctypes.ErrFutureRev, "the store has not come that far; kvctl get <key> -w fields shows the present revision"},
	{rpctypes.ErrLeaseNotFound, "it has expired or was revoked (\"kvctl lease list\" shows those alive), or the ID is not in hexadecimal"},
	{rpctypes.ErrRequestTooLarge, "kvd's max-request-bytes is the limit"},
	{rpctypes.ErrTooManyOps, "kvd's max-txn-ops is the limit"},
	{rpctypes.ErrNoLeader, "the member sees no leader: a majority of the cluster must be up; ask with \"kvctl endpoint status --cluster\""},
	{rpctypes.ErrUserEmpty, "the cluster wants to know who asks: --user name, or a client certificate"},
	{rpctypes.ErrPermissionDenied, "the user's roles do not allow this; root can grant more"},
	{rpctypes.ErrAuthFailed, "check the name and the password of --user"},
	{rpctypes.ErrInvalidAuthToken, "the token has ended or is another cluster's: log in with --user, or get a new one for --auth-jwt-token"},
	{rpctypes.ErrAuthNotEnabled, "authentication is off (\"kvctl auth status\"): leave out --user, or turn it on with \"kvctl auth enable\""},
	{rpctypes.ErrRootUserNotExist, "make that user first: kvctl user add root"},
	{rpctypes.ErrUserNotFound, "\"kvctl user list\" shows the users"},
	{rpctypes.ErrUserAlreadyExist, "\"kvctl user passwd\" changes its password, \"kvctl user grant-role\" what it may do"},
	{rpctypes.ErrRoleNotFound, "\"kvctl role list\" shows the roles; \"kvctl role add\" makes one"},
	{rpctypes.ErrRoleAlreadyExist, "\"kvctl role grant-permission\" changes what it permits"},
	{rpctypes.ErrRoleNotGranted, "\"kvctl user get\" shows the roles that a user has"},
	{rpctypes.ErrPermissionNotGranted, "a permission is taken back as it was granted, with the same range: \"kvctl role get\" shows it"},
	{rpctypes.ErrInvalidAuthMgmt, "while authentication is on, the user root and its role root must stay: \"kvctl auth disable\" first"},
	{rpctypes.ErrNotLeader, "only the leader does this: give all members with --endpoints"},
	{rpctypes.Error(rpctypes.ErrGRPCNotSupportedForLearner), "that endpoint is a learner, which answers little: give a voting member with --endpoints (\"kvctl member list\")"},
	{rpctypes.ErrTimeout, maybeDone},
	{rpctypes.ErrTimeoutDueToLeaderFail, maybeDone},
	{rpctypes.ErrTimeoutDueToConnectionLost, maybeDone},

	{rpctypes.ErrUnhealthy, "too few members have been up for the last five seconds for this to be safe: find the one that is down with \"kvctl endpoint health --cluster\" and start it, or wait"},
	{rpctypes.ErrMemberNotEnoughStarted, "a member was added and never started: \"kvctl member list\" shows it as unstarted; start it or remove it first"},
	{rpctypes.ErrTooManyLearners, "promote or remove a learner first (\"kvctl member list\"); kvd's max-learners is the limit"},
	{rpctypes.ErrMemberLearnerNotReady, "it is not running or has not caught up: compare its raft index with the leader's (\"kvctl endpoint status --cluster\") and try again"},
	{rpctypes.ErrMemberNotLearner, "it has its vote already"},
	{rpctypes.ErrMemberNotFound, "\"kvctl member list\" shows who is there; one that was removed does not come back, add it anew"},
	{rpctypes.ErrPeerURLExist, "a member has that peer URL (\"kvctl member list\"): remove it first if it is to be replaced"},
	{rpctypes.ErrMemberBadURLs, "a peer URL is http://host:port or https://host:port, without a path"},
	{rpctypes.ErrBadLeaderTransferee, "only a voting member of the cluster can lead (\"kvctl member list\")"},
	{rpctypes.ErrWrongDowngradeVersionFormat, "versions look like 3.6.0"},
	{rpctypes.ErrInvalidDowngradeTargetVersion, "a downgrade goes down by one minor version: from 3.7 to 3.6.0"},
	{rpctypes.ErrDowngradeInProcess, "it goes on until all members run the older version; \"kvctl downgrade cancel\" ends it before that"},
}

const maybeDone = "it may be done all the same: look before you try again; \"kvctl endpoint health --cluster\" tells whether a majority is well"

// hint says what a person may do about err. It knows what the library logged
// last, where the reason for a mere timeout is. An empty hint is none.
func (s *session) hint(err error) string {
	for _, a := range advice {
		if errors.Is(err, a.err) {
			return a.hint
		}
	}
	cause := s.last.String()
	where := strings.Join(s.spec.Endpoints, ", ")
	switch {
	case strings.Contains(cause, "connection refused"):
		return fmt.Sprintf("nothing listens at %s: is kvd running there (systemctl status kvd), and is --endpoints right?", where)
	case strings.Contains(cause, "no such host"):
		return fmt.Sprintf("no address for a name in %s: check --endpoints", where)
	case strings.Contains(cause, "certificate"):
		return "TLS: check --cacert, --cert and --key (" + cause + ")"
	case strings.Contains(cause, "handshake"):
		return "TLS: does the server speak it? Then give --cacert and an https:// endpoint; else http://"
	case strings.Contains(cause, "error reading server preface"):
		return fmt.Sprintf("what listens at %s does not speak gRPC in the clear: try https:// and --cacert", where)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("no answer from %s in %v: \"kvctl endpoint status\" tells whether there is a leader; --command-timeout waits longer", where, s.globals.commandTimeout)
	}
	return ""
}
