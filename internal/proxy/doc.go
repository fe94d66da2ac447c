// Package proxy serves etcd's API without a copy of the data. It passes calls
// on to the members of a cluster as they come, bytes and metadata untouched, so
// that a member sees the caller's own token. Watches of the same keys share one
// watch at a member, and renewals of the same lease one renewal.
//
// It finds the members by itself and knows nothing of raft or of the store. Run
// owns its goroutines.
package proxy
