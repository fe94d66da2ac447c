// Package compat holds kvd against etcd 3.7.3: the same requests are sent to
// both, and every answer must be the same. It also runs etcd's own clients and
// tools against kvd, and passes data directories from one to the other.
//
// It holds tests only. KVD_COMPAT_SEED, KVD_COMPAT_OPS and KVD_COMPAT_TARGET
// (see TestEveryAnswerIsEtcds) replay a difference that was found.
package compat
