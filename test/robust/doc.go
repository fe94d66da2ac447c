// Package robust ends kvd in every bad way — kill -9 under load, a full disk,
// broken files, a second process — and checks what must hold after: nothing
// acknowledged is lost, nothing else is half there, and what cannot be served
// is refused in words.
//
// The second half does so with clusters: real processes, on loopback or each in
// a network namespace of its own, that are killed, stopped, cut off, replaced
// and overtaken while clients write, read, watch and hold leases. A cluster
// (cluster_test.go) is used by a load (load_test.go); what its clients,
// observers and tenants saw is an account, which judge_test.go checks: by the
// order that revisions give, by replay, and by porcupine, which knows of
// revisions only what the model says. verdict_test.go shows that each check can
// fail.
//
// It holds tests only. KVD_CRASH_ROUNDS says how often the crash test kills,
// KVD_CRASH_SEED repeats its choices, KVD_TEST_KVD names the program to test.
// KVD_ROBUST_ROUNDS repeats each fault of a cluster, KVD_ROBUST_SEED the choices
// (what the kernel's timing makes of them is another time's), and
// KVD_ROBUST_SOAK says how long TestSoak goes on. An account that was found wrong
// is in the module's .cache/robust, with porcupine's picture beside it.
package robust
