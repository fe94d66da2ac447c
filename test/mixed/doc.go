// Package mixed runs clusters whose members are partly kvd and partly etcd
// 3.7.3, and turns a cluster of one kind into one of the other, member by
// member. What must hold is what holds in a cluster of one kind: members agree
// on every revision, nothing acknowledged is lost, and watchers are told of
// every change once.
//
// It holds tests only.
package mixed
