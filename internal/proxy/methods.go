package proxy

// kind is how a method is passed on.
type kind uint8

const (
	foreign kind = iota // not in the table: streams both ways
	unary               // one message, one answer
	answers             // one message, a stream of answers
	shared              // the proxy joins its callers
)

// method is what the proxy knows of an RPC.
type method struct {
	kind   kind
	writes bool // read-only mode refuses it
	again  bool // asking another member is harmless, if one did not answer
}

// methods are etcd's. What is not here is passed on as it is, and refused in
// read-only mode, as it may write. A Txn is looked into.
var methods = map[string]method{
	"/etcdserverpb.KV/Range":       {kind: unary, again: true},
	"/etcdserverpb.KV/RangeStream": {kind: answers},
	"/etcdserverpb.KV/Put":         {kind: unary, writes: true},
	"/etcdserverpb.KV/DeleteRange": {kind: unary, writes: true},
	"/etcdserverpb.KV/Txn":         {kind: unary, writes: true},
	"/etcdserverpb.KV/Compact":     {kind: unary, writes: true},

	"/etcdserverpb.Watch/Watch": {kind: shared},

	"/etcdserverpb.Lease/LeaseGrant":      {kind: unary, writes: true},
	"/etcdserverpb.Lease/LeaseRevoke":     {kind: unary, writes: true},
	"/etcdserverpb.Lease/LeaseKeepAlive":  {kind: shared, writes: true},
	"/etcdserverpb.Lease/LeaseTimeToLive": {kind: unary, again: true},
	"/etcdserverpb.Lease/LeaseLeases":     {kind: unary, again: true},

	"/etcdserverpb.Cluster/MemberAdd":     {kind: unary, writes: true},
	"/etcdserverpb.Cluster/MemberRemove":  {kind: unary, writes: true},
	"/etcdserverpb.Cluster/MemberUpdate":  {kind: unary, writes: true},
	"/etcdserverpb.Cluster/MemberList":    {kind: unary, again: true},
	"/etcdserverpb.Cluster/MemberPromote": {kind: unary, writes: true},

	"/etcdserverpb.Maintenance/Alarm":      {kind: unary, writes: true},
	"/etcdserverpb.Maintenance/Status":     {kind: unary, again: true},
	"/etcdserverpb.Maintenance/Defragment": {kind: unary, writes: true},
	"/etcdserverpb.Maintenance/Hash":       {kind: unary, again: true},
	"/etcdserverpb.Maintenance/HashKV":     {kind: unary, again: true},
	"/etcdserverpb.Maintenance/Snapshot":   {kind: answers},
	"/etcdserverpb.Maintenance/MoveLeader": {kind: unary, writes: true},
	"/etcdserverpb.Maintenance/Downgrade":  {kind: unary, writes: true},

	"/etcdserverpb.Auth/AuthEnable":           {kind: unary, writes: true},
	"/etcdserverpb.Auth/AuthDisable":          {kind: unary, writes: true},
	"/etcdserverpb.Auth/AuthStatus":           {kind: unary, again: true},
	"/etcdserverpb.Auth/Authenticate":         {kind: unary, again: true},
	"/etcdserverpb.Auth/UserAdd":              {kind: unary, writes: true},
	"/etcdserverpb.Auth/UserGet":              {kind: unary, again: true},
	"/etcdserverpb.Auth/UserList":             {kind: unary, again: true},
	"/etcdserverpb.Auth/UserDelete":           {kind: unary, writes: true},
	"/etcdserverpb.Auth/UserChangePassword":   {kind: unary, writes: true},
	"/etcdserverpb.Auth/UserGrantRole":        {kind: unary, writes: true},
	"/etcdserverpb.Auth/UserRevokeRole":       {kind: unary, writes: true},
	"/etcdserverpb.Auth/RoleAdd":              {kind: unary, writes: true},
	"/etcdserverpb.Auth/RoleGet":              {kind: unary, again: true},
	"/etcdserverpb.Auth/RoleList":             {kind: unary, again: true},
	"/etcdserverpb.Auth/RoleDelete":           {kind: unary, writes: true},
	"/etcdserverpb.Auth/RoleGrantPermission":  {kind: unary, writes: true},
	"/etcdserverpb.Auth/RoleRevokePermission": {kind: unary, writes: true},

	"/v3electionpb.Election/Campaign": {kind: unary, writes: true},
	"/v3electionpb.Election/Proclaim": {kind: unary, writes: true},
	"/v3electionpb.Election/Leader":   {kind: unary, again: true},
	"/v3electionpb.Election/Observe":  {kind: answers},
	"/v3electionpb.Election/Resign":   {kind: unary, writes: true},
	"/v3lockpb.Lock/Lock":             {kind: unary, writes: true},
	"/v3lockpb.Lock/Unlock":           {kind: unary, writes: true},

	"/grpc.health.v1.Health/Check": {kind: unary, again: true},
	"/grpc.health.v1.Health/List":  {kind: unary, again: true},
	"/grpc.health.v1.Health/Watch": {kind: answers},
}
