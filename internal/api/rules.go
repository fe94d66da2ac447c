package api

// need is what a caller must be allowed for an RPC once authentication is on.
type need uint8

const (
	// refused is the zero value: who forgets to say what is needed lets nobody in.
	refused need = iota
	anyone       // even without a name
	user         // any authenticated user
	keys         // permissions on the keys the request names, or on those of its lease
	root         // the root role
)

// rule says who may call an RPC.
type rule struct{ need need }

// permit refuses calls that the rule has no need for. Authentication cannot be
// on yet (the machine refuses to load such data), so every other need is met.
func (r rule) permit(*API) error {
	if r.need == refused {
		return errPermissionDenied
	}
	return nil
}

// rules is the one table of who may call what. An RPC that is not here is not
// served.
var rules = map[string]rule{
	"/etcdserverpb.KV/Range":       {keys},
	"/etcdserverpb.KV/RangeStream": {keys},
	"/etcdserverpb.KV/Put":         {keys},
	"/etcdserverpb.KV/DeleteRange": {keys},
	"/etcdserverpb.KV/Txn":         {keys},
	"/etcdserverpb.KV/Compact":     {root},

	"/etcdserverpb.Watch/Watch": {keys},

	"/etcdserverpb.Lease/LeaseGrant":      {user},
	"/etcdserverpb.Lease/LeaseRevoke":     {keys},
	"/etcdserverpb.Lease/LeaseKeepAlive":  {keys},
	"/etcdserverpb.Lease/LeaseTimeToLive": {keys},
	"/etcdserverpb.Lease/LeaseLeases":     {keys},

	"/etcdserverpb.Cluster/MemberAdd":     {root},
	"/etcdserverpb.Cluster/MemberRemove":  {root},
	"/etcdserverpb.Cluster/MemberUpdate":  {root},
	"/etcdserverpb.Cluster/MemberList":    {user},
	"/etcdserverpb.Cluster/MemberPromote": {root},

	"/etcdserverpb.Maintenance/Alarm":      {root}, // to list alarms a user is enough
	"/etcdserverpb.Maintenance/Status":     {user},
	"/etcdserverpb.Maintenance/Defragment": {root},
	"/etcdserverpb.Maintenance/Hash":       {root},
	"/etcdserverpb.Maintenance/HashKV":     {root},
	"/etcdserverpb.Maintenance/Snapshot":   {root},
	"/etcdserverpb.Maintenance/MoveLeader": {root},
	"/etcdserverpb.Maintenance/Downgrade":  {root},

	"/etcdserverpb.Auth/AuthEnable":           {root},
	"/etcdserverpb.Auth/AuthDisable":          {root},
	"/etcdserverpb.Auth/AuthStatus":           {root},
	"/etcdserverpb.Auth/Authenticate":         {anyone},
	"/etcdserverpb.Auth/UserAdd":              {root},
	"/etcdserverpb.Auth/UserGet":              {user}, // of oneself
	"/etcdserverpb.Auth/UserList":             {root},
	"/etcdserverpb.Auth/UserDelete":           {root},
	"/etcdserverpb.Auth/UserChangePassword":   {root},
	"/etcdserverpb.Auth/UserGrantRole":        {root},
	"/etcdserverpb.Auth/UserRevokeRole":       {root},
	"/etcdserverpb.Auth/RoleAdd":              {root},
	"/etcdserverpb.Auth/RoleGet":              {user}, // of one's own
	"/etcdserverpb.Auth/RoleList":             {root},
	"/etcdserverpb.Auth/RoleDelete":           {root},
	"/etcdserverpb.Auth/RoleGrantPermission":  {root},
	"/etcdserverpb.Auth/RoleRevokePermission": {root},

	"/grpc.health.v1.Health/Check": {anyone},
	"/grpc.health.v1.Health/List":  {anyone},
	"/grpc.health.v1.Health/Watch": {anyone},
}
