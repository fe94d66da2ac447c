package api

import (
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/state"
)

// need is what a caller must be allowed for an RPC once authentication is on.
type need uint8

const (
	// refused is the zero value: who forgets to say what is needed lets nobody in.
	refused need = iota
	anyone       // even without a name, and with a token that is no good
	sound        // even without a name, but not with a token that is no good
	user         // any authenticated user
	keys         // permissions on the keys the request names, or on those of its lease: who answers looks
	ordered      // the root role or what stands in its place: the machine looks, in the log's order
	root         // the root role
)

// Marks of an RPC beside who may call it.
const (
	onLearner    = 1 << iota // a learner serves it
	staleLearner             // a learner serves it to those who take what it has
	reads                    // it answers with keys, which a corrupt member must not
	severally                // each message of the stream is authorized by itself
	uncoded                  // its refusals have texts but no codes, as in etcd
	waits                    // it may wait for other clients, however long
)

// rule says who may call an RPC, and which members serve it.
type rule struct {
	need  need
	marks uint8
}

// needOf is what a request needs; nil stands for a stream.
func (r rule) needOf(request any) need {
	if alarm, ok := request.(*pb.AlarmRequest); ok && alarm.Action == pb.AlarmRequest_GET {
		return min(r.need, user)
	}
	return r.need
}

// served refuses calls that have no rule, and those that this kind of member
// does not serve. The request is nil for a stream.
func (r rule) served(a *API, request any) error {
	if r.need == refused {
		return errPermissionDenied
	}
	v := a.member.View()
	if self, known := v.Members.Member(a.id); known && self.Learner && !r.onLearner(request) {
		return errLearner
	}
	if r.marks&reads != 0 && a.corrupt(v) {
		return errCorrupt
	}
	return nil
}

func (r rule) onLearner(request any) bool {
	if r.marks&staleLearner != 0 {
		get, ok := request.(*pb.RangeRequest)
		return ok && get.Serializable
	}
	return r.marks&onLearner != 0
}

// corrupt reports whether the members have found this one's data to differ from
// theirs. The alarm alone ends writes, on all members; reads end on this one.
func (a *API) corrupt(v *state.View) bool {
	return slices.Contains(v.Alarms, state.Alarm{Member: a.id, Type: pb.AlarmType_CORRUPT})
}

// rules is the one table of who may call what. An RPC that is not here is not
// served.
var rules = map[string]rule{
	"/etcdserverpb.KV/Range":       {need: keys, marks: reads | staleLearner},
	"/etcdserverpb.KV/RangeStream": {need: keys, marks: reads | severally},
	"/etcdserverpb.KV/Put":         {need: keys},
	"/etcdserverpb.KV/DeleteRange": {need: keys},
	"/etcdserverpb.KV/Txn":         {need: keys, marks: reads},
	"/etcdserverpb.KV/Compact":     {need: root},

	"/etcdserverpb.Watch/Watch": {need: keys, marks: reads | severally},

	"/etcdserverpb.Lease/LeaseGrant":      {need: user},
	"/etcdserverpb.Lease/LeaseRevoke":     {need: keys},
	"/etcdserverpb.Lease/LeaseKeepAlive":  {need: keys, marks: severally},
	"/etcdserverpb.Lease/LeaseTimeToLive": {need: keys},
	"/etcdserverpb.Lease/LeaseLeases":     {need: keys},

	"/etcdserverpb.Cluster/MemberAdd":     {need: root},
	"/etcdserverpb.Cluster/MemberRemove":  {need: root},
	"/etcdserverpb.Cluster/MemberUpdate":  {need: root},
	"/etcdserverpb.Cluster/MemberList":    {need: user},
	"/etcdserverpb.Cluster/MemberPromote": {need: root},

	"/etcdserverpb.Maintenance/Alarm":      {need: root}, // to list alarms a user is enough
	"/etcdserverpb.Maintenance/Status":     {need: user, marks: onLearner},
	"/etcdserverpb.Maintenance/Defragment": {need: root},
	"/etcdserverpb.Maintenance/Hash":       {need: root},
	"/etcdserverpb.Maintenance/HashKV":     {need: root},
	"/etcdserverpb.Maintenance/Snapshot":   {need: root, marks: onLearner},
	"/etcdserverpb.Maintenance/MoveLeader": {need: root},
	"/etcdserverpb.Maintenance/Downgrade":  {need: root},

	"/etcdserverpb.Auth/AuthEnable":           {need: ordered},
	"/etcdserverpb.Auth/AuthDisable":          {need: ordered},
	"/etcdserverpb.Auth/AuthStatus":           {need: sound},
	"/etcdserverpb.Auth/Authenticate":         {need: anyone},
	"/etcdserverpb.Auth/UserAdd":              {need: ordered},
	"/etcdserverpb.Auth/UserGet":              {need: ordered}, // of oneself
	"/etcdserverpb.Auth/UserList":             {need: ordered},
	"/etcdserverpb.Auth/UserDelete":           {need: ordered},
	"/etcdserverpb.Auth/UserChangePassword":   {need: ordered},
	"/etcdserverpb.Auth/UserGrantRole":        {need: ordered},
	"/etcdserverpb.Auth/UserRevokeRole":       {need: ordered},
	"/etcdserverpb.Auth/RoleAdd":              {need: ordered},
	"/etcdserverpb.Auth/RoleGet":              {need: ordered}, // of one's own
	"/etcdserverpb.Auth/RoleList":             {need: ordered},
	"/etcdserverpb.Auth/RoleDelete":           {need: ordered},
	"/etcdserverpb.Auth/RoleGrantPermission":  {need: ordered},
	"/etcdserverpb.Auth/RoleRevokePermission": {need: ordered},

	// What these do to keys is permitted as the RPCs that would do it are.
	"/v3electionpb.Election/Campaign": {need: user, marks: reads | waits | uncoded},
	"/v3electionpb.Election/Proclaim": {need: user, marks: uncoded},
	"/v3electionpb.Election/Leader":   {need: user, marks: reads | uncoded},
	"/v3electionpb.Election/Observe":  {need: user, marks: reads | uncoded},
	"/v3electionpb.Election/Resign":   {need: user, marks: uncoded},

	"/v3lockpb.Lock/Lock":   {need: user, marks: reads | waits | uncoded},
	"/v3lockpb.Lock/Unlock": {need: user, marks: uncoded},

	"/grpc.health.v1.Health/Check": {need: anyone},
	"/grpc.health.v1.Health/List":  {need: anyone},
	"/grpc.health.v1.Health/Watch": {need: anyone},
}
